import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import augment
from maskaq_jax.augment import FinetuningView, Pixels, SynthesisView

STILL = FinetuningView(min_area=1.0, flip=0.0, jitter=0.0, grey=0.0, blur=0.0)
PIXELS = Pixels(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
KEYS = jax.random.split(jax.random.key(0), 6)
IMAGES = jax.random.normal(jax.random.key(1), (6, 14, 14, 3))
FLAT = jnp.ones((6, 14, 14, 3)) * jnp.array([0.1, 0.2, 0.3])[None, None, None]


def _view(**changes):
    return FinetuningView(**{**STILL.__dict__, **changes})


VIEWS = {
    "synthesis": lambda keys, images: augment.synthesis_view(keys, images, 3, 10, SynthesisView()),
    "finetuning": lambda keys, images: augment.finetuning_view(
        keys, images, PIXELS, FinetuningView(shift=2)
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_do_not_depend_on_the_batch_they_stand_in(name):
    view = jax.jit(VIEWS[name])
    together = view(KEYS, IMAGES)
    assert together.shape == IMAGES.shape
    assert together.dtype == IMAGES.dtype
    alone = view(KEYS[2:3], IMAGES[2:3])
    np.testing.assert_allclose(together[2], alone[0], atol=1e-5)
    assert not np.allclose(together[0], view(KEYS[1:2], IMAGES[:1])[0])


def test_no_strength_is_no_change():
    still = augment.synthesis_view(KEYS, IMAGES, 3, 10, SynthesisView(0, 0, 0))
    np.testing.assert_array_equal(still, IMAGES)
    np.testing.assert_array_equal(augment.finetuning_view(KEYS, IMAGES, PIXELS, STILL), IMAGES)


@pytest.mark.parametrize(("step", "furthest"), [(0, 1), (49, 1), (50, 2), (99, 2)])
def test_images_roll_further_in_the_second_half(step, furthest):
    marked = jnp.zeros((1, 14, 14, 1)).at[0, 7, 7, 0].set(1.0)
    spec = SynthesisView(roll=2 / 14, brightness=0, colour=0)
    seen = set()
    for key in jax.random.split(jax.random.key(3), 200):
        view = augment.synthesis_view(key[None], marked, step, 100, spec)
        row, column = divmod(int(view.argmax()), 14)
        seen.update([row - 7, column - 7])
    assert seen == set(range(-furthest, furthest + 1))


def test_brightness_fades_to_nothing():
    spec = SynthesisView(0, brightness=0.5, colour=0)

    def shift(step):
        return np.asarray(augment.synthesis_view(KEYS, IMAGES, step, 10, spec) - IMAGES)

    assert np.abs(shift(9)).max() == 0
    np.testing.assert_allclose(shift(0)[:, :1, :1] * np.ones((1, 14, 14, 1)), shift(0), atol=1e-5)
    np.testing.assert_allclose(shift(0) / 9, shift(8), atol=1e-5)


def test_colour_change_is_affine_for_each_channel():
    spec = SynthesisView(0, 0, colour=1.0)
    views = np.asarray(augment.synthesis_view(KEYS, IMAGES, 0, 10, spec))
    scale = views.std(axis=(1, 2)) / np.asarray(IMAGES).std(axis=(1, 2))
    assert (np.abs(np.log(scale)) <= 1 + 1e-5).all()
    mean = np.asarray(IMAGES).mean(axis=(1, 2)) - views.mean(axis=(1, 2)) / scale
    assert (np.abs(mean) <= 1 + 1e-5).all()


@pytest.mark.parametrize("part", ["min_area", "shift", "blur"])
def test_crop_shift_and_blur_leave_a_flat_image_flat(part):
    spec = _view(**{part: {"min_area": 0.1, "shift": 3, "blur": 1.0}[part]})
    views = augment.finetuning_view(KEYS, FLAT, PIXELS, spec)
    inside = views[:, 2:-2, 2:-2]  # a blur sees beyond the border
    np.testing.assert_allclose(inside, FLAT[:, 2:-2, 2:-2], atol=1e-4)


def test_crops_zoom_in():
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 14)[None, None, :, None], (6, 14, 14, 3))
    views = augment.finetuning_view(KEYS, ramp, PIXELS, _view(min_area=0.1))
    span = np.asarray(views.max(axis=(1, 2, 3)) - views.min(axis=(1, 2, 3)))
    assert (span < 1).all()
    assert span.std() > 0


def test_flips_mirror_the_columns():
    views = augment.finetuning_view(KEYS, IMAGES, PIXELS, _view(flip=1.0))
    np.testing.assert_array_equal(views, IMAGES[:, :, ::-1])


def test_grey_views_have_equal_pixels():
    views = augment.finetuning_view(KEYS, 0.3 * IMAGES, PIXELS, _view(grey=1.0))
    pixels = np.asarray(views) * np.asarray(PIXELS.std) + np.asarray(PIXELS.mean)
    np.testing.assert_allclose(pixels[..., 0], pixels[..., 1], atol=1e-5)
    np.testing.assert_allclose(pixels[..., 0], pixels[..., 2], atol=1e-5)


def test_jittered_views_are_pictures():
    views = augment.finetuning_view(KEYS, IMAGES, PIXELS, _view(jitter=1.0))
    pixels = np.asarray(views) * np.asarray(PIXELS.std) + np.asarray(PIXELS.mean)
    assert pixels.min() >= -1e-5
    assert pixels.max() <= 1 + 1e-5


def test_blur_takes_contrast_away():
    spec = _view(blur=1.0)
    images = jnp.tile(0.2 * IMAGES, (1, 2, 2, 1))  # large enough for a kernel of 3
    views = augment.finetuning_view(KEYS, images, PIXELS, spec)
    assert views.std() < images.std()


def test_shifts_repeat_the_border():
    ramp = jnp.broadcast_to(jnp.arange(14.0)[None, :, None, None], (6, 14, 14, 3))
    views = np.asarray(augment.finetuning_view(KEYS, ramp, PIXELS, _view(shift=2)))
    for view in views:
        shift = view[7, 0, 0] - 7
        np.testing.assert_allclose(view[:, 0, 0], np.clip(np.arange(14) + shift, 0, 13))
