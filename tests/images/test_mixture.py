import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.images import marble, mixture, random_networks, spectra, still_lifes, tones
from maskaq_jax.images.pixels import Pixels

KEY = jax.random.key(0)
SHAPE = (32, 24, 3)
PIXELS = Pixels()


def _draw(indices, shape=SHAPE, pixels=PIXELS):
    draw = jax.jit(lambda own: mixture.draw_mixture(KEY, own, shape, pixels))
    return np.asarray(draw(jnp.asarray(indices)))


@pytest.fixture(scope="module")
def images():
    return _draw(range(32))


def test_they_are_real_pixels_of_many_colours(images):
    pixels = np.asarray(PIXELS.denormalise(images))
    low, high = (np.asarray(bound) for bound in PIXELS.bounds())
    assert images.shape == (32, *SHAPE)
    assert (images >= low - 1e-6).all()
    assert (images <= high + 1e-6).all()
    assert 0.2 < pixels.mean() < 0.8
    assert pixels.std() > 0.15
    assert np.ptp(pixels.mean(axis=(1, 2, 3))) > 0.1
    assert (pixels.std(axis=(1, 2, 3)) > 0.01).all()


def test_an_image_depends_on_its_number_alone(images):
    np.testing.assert_allclose(_draw([5, 2]), images[[5, 2]], atol=1e-5)
    assert np.corrcoef(images.reshape(32, -1))[~np.eye(32, dtype=bool)].max() < 0.9


def test_there_are_about_as_many_images_of_each_kind(monkeypatch):
    """Each drawer paints a level of its own."""
    levels = {"leaves": 0.1, "still life": 0.3, "marble": 0.5, "network": 0.7}

    def plain(level, *size):
        return jnp.full((*size, 3), level)

    monkeypatch.setattr(
        mixture.dead_leaves, "draw_image", lambda key, shape, grey: plain(0.1, *shape[:2])
    )
    monkeypatch.setattr(
        mixture.still_lifes, "draw", lambda key, textures: plain(0.3, *textures.shape[1:3])
    )
    monkeypatch.setattr(mixture.marble, "draw", lambda key, *size: plain(0.5, *size))
    monkeypatch.setattr(mixture.random_networks, "draw", lambda key, *size: plain(0.7, *size))
    drawn = _draw(range(400), (4, 4, 3), Pixels(mean=(0.0,) * 3, std=(1.0,) * 3))
    counts = [
        np.isclose(drawn, level, atol=1e-3).all(axis=(1, 2, 3)).sum() for level in levels.values()
    ]
    assert sum(counts) == 400
    assert min(counts) > 70


def test_a_grey_model_gets_the_same_images_without_colour():
    pixels = Pixels(mean=(0.3,), std=(0.3,), grey=True)
    grey = _draw(range(12), (*SHAPE[:2], 1), pixels)
    assert grey.shape == (12, *SHAPE[:2], 1)
    assert (grey.std(axis=(1, 2, 3)) > 0.02).all()
    alike = _draw(range(12), SHAPE, Pixels(mean=(0.3,) * 3, std=(0.3,) * 3, grey=True))
    np.testing.assert_allclose(alike, np.broadcast_to(grey, alike.shape), atol=1e-5)


def test_no_marble_is_of_one_colour():
    draw = jax.jit(lambda keys: jax.lax.map(lambda key: marble.draw(key, 16, 16), keys))
    drawn = np.asarray(draw(jax.random.split(KEY, 1000)))
    assert drawn.std(axis=(1, 2, 3)).min() > 0.02


@pytest.mark.parametrize("draw", [marble.draw, random_networks.draw])
@pytest.mark.parametrize("size", [(20, 33), (8, 8), (4, 3)])
def test_textures_have_the_size_that_is_asked_for(draw, size):
    image = np.asarray(jax.jit(draw, static_argnums=(1, 2))(KEY, *size))
    assert image.shape == (*size, 3)
    assert np.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.std() > 0.05


def test_a_still_life_has_the_colours_of_its_textures():
    """Red ones alone give a red picture, whatever the light."""
    red = jnp.broadcast_to(jnp.asarray([0.6, 0.0, 0.0]), (4, *SHAPE))
    picture = np.asarray(jax.jit(still_lifes.draw)(KEY, red))
    assert picture.shape == SHAPE
    mean = picture.mean(axis=(0, 1))
    assert mean[0] > 2 * mean[1:].max()
    # Shading, shadows and things that are brighter or darker.
    assert picture[..., 0].std() > 0.01


def test_noise_has_the_spectrum_that_is_asked_for():
    noise = jax.random.normal(KEY, (256, 256, 1))
    for slope in (0.0, 1.0, 2.0):
        coloured = np.asarray(spectra.with_slope(noise, slope))[..., 0]
        power = np.abs(np.fft.rfft2(coloured)) ** 2
        frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None])
        inside = (frequency > 0.02) & (frequency < 0.4)
        fitted = np.polyfit(np.log(frequency[inside]), np.log(power[inside]), 1)[0]
        assert fitted == pytest.approx(-2 * slope, abs=0.1)
        assert coloured.mean() == pytest.approx(0, abs=1e-5)
        assert coloured.std() == pytest.approx(1, abs=1e-3)


def test_tones_are_those_of_photographs():
    """Brightness varies more than colour, and neither hangs on the scale of what is given."""
    fields = jax.random.normal(KEY, (64, 64, 3))
    image = np.asarray(tones.give_tones(KEY, fields))
    assert image.min() >= 0
    assert image.max() <= 1
    channels = np.corrcoef(image.reshape(-1, 3).T)[~np.eye(3, dtype=bool)]
    assert channels.min() > 0.3
    scaled = np.asarray(tones.give_tones(KEY, 100 * fields + 7))
    np.testing.assert_allclose(scaled, image, atol=1e-4)
