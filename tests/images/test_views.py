import colorsys
import dataclasses

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.images.pixels import Pixels
from maskaq_jax.images.views import FinetuningView, SynthesisView, finetuning_view, synthesis_view

COUNT, SIDE, NUM_STEPS = 8, 20, 100
pytestmark = pytest.mark.usefixtures("all_optimisations")

PIXELS = Pixels(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
KEYS = jax.random.split(jax.random.key(0), COUNT)
IMAGES = jax.random.uniform(jax.random.key(1), (COUNT, SIDE, SIDE, 3), minval=-1.0, maxval=1.0)

SYNTHESIS = SynthesisView(roll=1 / 4, brightness=0.5, colour=1.0, flip=0.5)
STILL_SYNTHESIS = SynthesisView(roll=0.0, brightness=0.0, colour=0.0, flip=0.0)
FINETUNING = FinetuningView(shift=2)
STILL = FinetuningView(min_area=1.0, flip=0.0, jitter=0.0, grey=0.0, blur=0.0, shift=0)


# Compiled once for each combination of parts.
_synthesis_view = jax.jit(synthesis_view, static_argnums=(3, 4))
_finetuning_view = jax.jit(finetuning_view, static_argnums=(2, 3))


def _synthesis(images=IMAGES, keys=KEYS, step=0, still=STILL_SYNTHESIS, **changes):
    spec = dataclasses.replace(still, **changes)
    return np.asarray(_synthesis_view(keys, images, step, NUM_STEPS, spec))


def _finetuning(images=IMAGES, keys=KEYS, still=STILL, **changes):
    spec = dataclasses.replace(still, **changes)
    return np.asarray(_finetuning_view(keys, images, PIXELS, spec))


def _to_pixels(views):
    return views * np.asarray(PIXELS.std) + np.asarray(PIXELS.mean)


VIEWS = {
    "synthesis": lambda images, keys: _synthesis(images, keys, still=SYNTHESIS),
    "finetuning": lambda images, keys: _finetuning(images, keys, still=FINETUNING),
}
PARTS = [
    (_synthesis, {"roll": 1 / 4}),
    (_synthesis, {"brightness": 0.5}),
    (_synthesis, {"colour": 1.0}),
    (_synthesis, {"flip": 0.5}),
    (_finetuning, {"min_area": 0.08}),
    (_finetuning, {"flip": 0.5}),
    (_finetuning, {"jitter": 1.0}),
    (_finetuning, {"grey": 1.0}),
    (_finetuning, {"blur": 1.0}),
    (_finetuning, {"shift": 2}),
]


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("shape", [(3, 8, 8, 3), (2, 12, 8, 3)])
def test_views_keep_shape_and_dtype(view, shape):
    views = view(jnp.zeros(shape), KEYS[: shape[0]])
    assert views.shape == shape
    assert views.dtype == np.float32


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views_do_not_depend_on_the_batch_they_stand_in(view):
    some = np.array([5, 2, 7])
    np.testing.assert_allclose(view(IMAGES[some], KEYS[some]), view(IMAGES, KEYS)[some], atol=1e-5)


@pytest.mark.parametrize(("view", "part"), PARTS)
def test_each_part_of_a_view_changes_images_and_differs_between_them(view, part):
    same = jnp.broadcast_to(IMAGES[:1], IMAGES.shape)
    views = view(same, **part)
    assert not np.allclose(views, same)
    if part != {"grey": 1.0}:  # nothing is drawn for a grey image but whether
        assert not np.allclose(views, views[:1])


def test_a_single_channel_is_recoloured_as_three_equal_ones():
    spec = dataclasses.replace(STILL, jitter=1.0, grey=0.5, blur=0.5)
    views = [
        _finetuning_view(KEYS, images, Pixels((0.4,) * count, (0.3,) * count), spec)
        for count, images in ((1, IMAGES[..., :1]), (3, jnp.repeat(IMAGES[..., :1], 3, axis=-1)))
    ]
    np.testing.assert_allclose(jnp.broadcast_to(views[0], views[1].shape), views[1], atol=1e-5)


@pytest.mark.parametrize("step", [0, 30, NUM_STEPS - 1])
def test_a_synthesis_view_without_strength_is_the_image(step):
    np.testing.assert_array_equal(_synthesis(step=step), IMAGES)


def test_a_finetuning_view_without_probability_is_the_image():
    np.testing.assert_array_equal(_finetuning(), IMAGES)


def _rolls(step, count=400, side=8):
    """Where the one marked pixel of each image goes, relative to where it was."""
    marked = jnp.zeros((count, side, side, 1)).at[:, 0, 0].set(1.0)
    keys = jax.random.split(jax.random.key(2), count)
    found = _synthesis(marked, keys, step, roll=1 / 4).reshape(count, -1).argmax(axis=1)
    row, column = np.divmod(found, side)
    return (row + side // 2) % side - side // 2, (column + side // 2) % side - side // 2


@pytest.mark.parametrize(("step", "largest"), [(0, 1), (49, 1), (50, 2), (99, 2)])
def test_rolls_reach_half_as_far_in_the_first_half_of_a_run(step, largest):
    for shifts in _rolls(step):
        assert set(shifts) == set(range(-largest, largest + 1))


def test_both_axes_roll_independently():
    rows, columns = _rolls(99)
    assert len(set(zip(rows, columns, strict=True))) == 25


def test_the_papers_roll_is_16_of_224_pixels():
    assert round(SynthesisView().roll * 224) == 16
    assert round(SynthesisView().roll * 224 / 2) == 8


def test_brightness_is_one_shift_per_image_and_channel():
    shift = _synthesis(brightness=0.5) - IMAGES
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1], shift.shape), atol=1e-6)
    assert len(np.unique(shift[:, 0, 0].round(5))) == 3 * COUNT


@pytest.mark.parametrize("step", [0, 25, 98])
def test_brightness_fades_linearly(step):
    first = (_synthesis(brightness=0.5) - IMAGES)[:, 0, 0] / (NUM_STEPS - 1)
    faded = (_synthesis(brightness=0.5, step=step) - IMAGES)[:, 0, 0]
    np.testing.assert_allclose(faded, first * (NUM_STEPS - 1 - step), atol=1e-5)


def test_brightness_is_gone_at_the_last_step():
    np.testing.assert_array_equal(_synthesis(brightness=0.5, step=NUM_STEPS - 1), IMAGES)


def test_brightness_starts_with_its_standard_deviation():
    keys = jax.random.split(jax.random.key(2), 2000)
    shift = _synthesis(jnp.zeros((2000, 1, 1, 3)), keys, brightness=0.5)
    np.testing.assert_allclose(shift.mean(), 0, atol=0.03)
    np.testing.assert_allclose(shift.std(), 0.5, rtol=0.05)


def _colour_change(count=COUNT, bound=1.0):
    """Mean m and deviation exp(s) of each image's and channel's `(x - m) / exp(s)`."""
    keys = jax.random.split(jax.random.key(2), count)
    black = _synthesis(jnp.zeros((count, 1, 1, 3)), keys, colour=bound)[:, 0, 0]
    white = _synthesis(jnp.ones((count, 1, 1, 3)), keys, colour=bound)[:, 0, 0]
    deviation = 1 / (white - black)
    return -black * deviation, deviation


@pytest.mark.parametrize("bound", [1.0, 0.3])
def test_colours_change_by_a_uniform_mean_and_log_deviation(bound):
    mean, deviation = _colour_change(1000, bound)
    for drawn in (mean, np.log(deviation)):
        assert np.abs(drawn).max() <= bound + 1e-5
        np.testing.assert_allclose(drawn.mean(), 0, atol=0.05 * bound)
        np.testing.assert_allclose(drawn.std(), bound / np.sqrt(3), rtol=0.05)
    assert abs(np.corrcoef(mean.ravel(), deviation.ravel())[0, 1]) < 0.1


def test_a_colour_change_is_the_same_all_over_an_image():
    keys = jax.random.split(jax.random.key(2), COUNT)
    mean, deviation = _colour_change()
    expected = (IMAGES - mean[:, None, None]) / deviation[:, None, None]
    np.testing.assert_allclose(_synthesis(keys=keys, colour=1.0), expected, atol=1e-4)


@pytest.mark.parametrize("view", [_synthesis, _finetuning])
def test_a_flip_mirrors_left_and_right(view):
    np.testing.assert_allclose(view(flip=1.0), IMAGES[:, :, ::-1])


@pytest.mark.parametrize("view", [_synthesis, _finetuning])
def test_half_of_the_images_are_flipped(view):
    keys = jax.random.split(jax.random.key(2), 1000)
    ramp = jnp.broadcast_to(jnp.arange(2.0)[:, None], (1000, 1, 2, 1)) * jnp.ones((1, 1, 1, 3))
    assert 0.45 < view(ramp, keys, flip=0.5)[:, 0, 0, 0].mean() < 0.55


def test_a_crop_of_a_constant_image_is_constant():
    constant = jnp.broadcast_to(jnp.array([0.1, -0.2, 0.3]), (COUNT, SIDE, SIDE, 3))
    np.testing.assert_allclose(_finetuning(constant, min_area=0.08), constant, atol=1e-5)


def _boxes(min_area, count=300, side=64):
    """Shares of the sides and the corner of each crop, read off an image of coordinates."""
    position = (jnp.arange(side) + 0.5) / side
    image = jnp.stack(jnp.broadcast_arrays(position[:, None], position[None], 0.0), axis=-1)
    keys = jax.random.split(jax.random.key(2), count)
    views = _finetuning(jnp.broadcast_to(image, (count, *image.shape)), keys, min_area=min_area)
    # Away from the border, where the resize has nothing to interpolate with.
    low, high = side // 4, 3 * side // 4
    rows, columns = views[:, :, side // 2, 0], views[:, side // 2, :, 1]
    height = (rows[:, high] - rows[:, low]) * 2
    width = (columns[:, high] - columns[:, low]) * 2
    centre = rows[:, side // 2], columns[:, side // 2]
    return height, width, centre


@pytest.mark.parametrize("min_area", [0.08, 0.5])
def test_crops_have_the_area_and_aspect_asked_for(min_area):
    height, width, (row, column) = _boxes(min_area)
    area = height * width
    # A box that is longer than the image is cut to it.
    assert area.min() > 0.85 * min_area
    assert area.max() <= 1.001
    assert area.min() < min_area + 0.1
    aspect = width / height
    assert aspect.min() > 3 / 4 - 0.01
    assert aspect.max() < 4 / 3 + 0.01
    assert aspect.min() < 0.85
    assert aspect.max() > 1.18
    # Boxes lie within the image.
    for centre, length in ((row, height), (column, width)):
        assert (centre - length / 2 > -0.02).all()
        assert (centre + length / 2 < 1.02).all()


def test_grey_images_have_equal_channels_in_pixels():
    pixels = _to_pixels(_finetuning(grey=1.0))
    np.testing.assert_allclose(pixels, np.broadcast_to(pixels[..., :1], pixels.shape), atol=1e-6)
    weights = np.array([0.299, 0.587, 0.114])
    expected = (np.clip(_to_pixels(np.asarray(IMAGES)), 0, 1) * weights).sum(axis=-1)
    np.testing.assert_allclose(pixels[..., 0], expected, atol=1e-5)


def test_jittered_colours_stay_pixels():
    keys = jax.random.split(jax.random.key(2), 200)
    noise = 2 * jax.random.normal(jax.random.key(3), (200, 4, 4, 3))
    pixels = _to_pixels(_finetuning(noise, keys, jitter=1.0))
    assert pixels.min() >= -1e-5
    assert pixels.max() <= 1 + 1e-5


def test_jitter_changes_brightness_contrast_saturation_and_hue_in_turn():
    pixels = np.clip(_to_pixels(np.asarray(IMAGES, np.float64)), 0, 1)
    views = _to_pixels(_finetuning(jitter=1.0))
    weights = np.array([0.299, 0.587, 0.114])
    for key, image, view in zip(KEYS, pixels, views, strict=True):
        factor_key, hue_key = jax.random.split(jax.random.split(key, 6)[4])
        brightness, contrast, saturation = jax.random.uniform(factor_key, (3,)) * 1.6 + 0.2
        hue = float(jax.random.uniform(hue_key)) * 0.4 - 0.2
        expected = np.clip(image * float(brightness), 0, 1)
        level = (expected @ weights).mean()
        expected = np.clip(level + (expected - level) * float(contrast), 0, 1)
        grey = (expected @ weights)[..., None]
        expected = np.clip(grey + (expected - grey) * float(saturation), 0, 1)
        turned = [colorsys.rgb_to_hsv(*colour) for colour in expected.reshape(-1, 3)]
        turned = [colorsys.hsv_to_rgb((h + hue) % 1, s, v) for h, s, v in turned]
        np.testing.assert_allclose(view.reshape(-1, 3), turned, atol=1e-4)


def test_jitter_has_no_colour_to_shift_in_grey_images():
    grey = (0.5 - jnp.asarray(PIXELS.mean)) / jnp.asarray(PIXELS.std)
    grey = jnp.broadcast_to(grey, (COUNT, SIDE, SIDE, 3))
    pixels = _to_pixels(_finetuning(grey, jitter=1.0))
    np.testing.assert_allclose(pixels[..., 0], pixels[..., 2], atol=1e-5)
    assert pixels.std() > 0.05


@pytest.mark.parametrize("part", ["jitter", "grey", "blur"])
def test_colours_change_as_often_as_asked(part):
    keys = jax.random.split(jax.random.key(2), 1000)
    images = jax.random.uniform(jax.random.key(3), (1000, 20, 20, 3), minval=-0.5, maxval=0.5)
    changed = np.abs(_finetuning(images, keys, **{part: 0.3}) - images).max(axis=(1, 2, 3)) > 1e-4
    # A blur of deviation below a quarter of a pixel changes nothing.
    assert 0.2 < changed.mean() < 0.4


def test_blur_keeps_a_constant_image():
    constant = jnp.broadcast_to(jnp.array([0.1, -0.2, 0.3]), (COUNT, 28, 28, 3))
    np.testing.assert_allclose(_finetuning(constant, blur=1.0), constant, atol=1e-5)


def test_blur_smooths_and_keeps_the_mean():
    images = jax.random.uniform(jax.random.key(3), (COUNT, 60, 60, 3), minval=-0.5, maxval=0.5)
    blurred = _finetuning(images, blur=1.0)
    np.testing.assert_allclose(blurred.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=0.02)
    assert (blurred.std(axis=(1, 2, 3)) < images.std(axis=(1, 2, 3)) + 1e-5).all()
    assert blurred.std() < 0.6 * images.std()


@pytest.mark.parametrize("side", [28, 60])
def test_blur_is_a_convolution_of_the_reflected_image(side):
    radius = int(0.1 * side) // 2
    images = jax.random.uniform(jax.random.key(3), (COUNT, side, side, 3))
    views = _finetuning(images, blur=1.0)
    for key, image, view in zip(KEYS, images, views, strict=True):
        padded = jnp.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
        sigma = jax.random.uniform(jax.random.split(key, 6)[5], minval=0.1, maxval=2.0)
        expected = dm_pix.gaussian_blur(padded, sigma, 2 * radius + 1, padding="VALID")
        np.testing.assert_allclose(view, expected, atol=1e-5)


def test_shifts_fill_with_the_edge():
    image = np.asarray(IMAGES[0])
    keys = jax.random.split(jax.random.key(2), 200)
    views = _finetuning(jnp.broadcast_to(image, (200, *image.shape)), keys, shift=2)
    position, shifts = np.arange(SIDE), range(-2, 3)
    expected = {
        (down, right): image[
            np.clip(position + down, 0, SIDE - 1)[:, None], np.clip(position + right, 0, SIDE - 1)
        ]
        for down in shifts
        for right in shifts
    }
    found = [
        shift
        for view in views
        for shift, shifted in expected.items()
        if np.array_equal(view, shifted)
    ]
    assert len(found) == len(views)
    assert set(found) == set(expected)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_images_that_have_no_view_are_refused(view):
    with pytest.raises(ValueError, match=r"images must be \[batch, height, width, channels\]"):
        view(jnp.zeros((8, 8, 3)), KEYS[:8])
    with pytest.raises(ValueError, match="images must have floating dtype, got uint8"):
        view(jnp.zeros((2, 8, 8, 3), jnp.uint8), KEYS[:2])
    with pytest.raises(ValueError, match="keys must be one an image, got 3 for 2 images"):
        view(jnp.zeros((2, 8, 8, 3)), KEYS[:3])
