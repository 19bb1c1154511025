import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from maskaq_jax.images.pixels import Pixels

PIXELS = Pixels(mean=(0.5, 0.25), std=(0.5, 0.125))


def test_normalised_pixels_are_those_of_the_formula():
    images = np.array([[[[0, 255]]], [[[51, 102]]]], np.uint8)
    normalised = PIXELS.from_bytes(images)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised.ravel(), [-1, 6, -0.6, 1.2], rtol=1e-6)


@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray])
def test_colours_are_made_grey_as_pillow_does_where_the_model_knows_none(asarray):
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), np.uint8)
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    pixels = Pixels(grey=True)
    found = pixels.from_bytes(asarray(images))
    in_grey = asarray(np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(found, Pixels().from_bytes(in_grey))
    np.testing.assert_array_equal(found, pixels.from_bytes(in_grey))


@pytest.mark.parametrize("shape", [(2,), (1, 2), (3, 1, 5, 2)])
def test_normalisation_is_undone(shape):
    pixels = np.random.default_rng(0).random(shape, np.float32)
    for asarray in (np.asarray, jnp.asarray):
        images = PIXELS.normalise(asarray(pixels))
        assert isinstance(images, type(asarray(pixels)))
        np.testing.assert_allclose(PIXELS.denormalise(images), pixels, atol=1e-6)


def test_pixel_bounds_are_those_of_the_normalisation():
    low, high = Pixels(mean=(0.5,), std=(0.25,)).bounds()
    np.testing.assert_allclose([low[0], high[0]], [-2, 2])


def test_bounds_of_grey_pixels_are_what_all_channels_can_show():
    grey = Pixels(mean=(0.5, 0.25), std=(0.5, 0.5), grey=True)
    low, high = grey.bounds()
    np.testing.assert_allclose(low, [-0.5, -0.5])  # of the second
    np.testing.assert_allclose(high, [1, 1])  # of the first


def test_what_no_pixel_gives_is_cut_off():
    low, high = PIXELS.bounds()
    np.testing.assert_allclose(low, [-1, -2])
    np.testing.assert_allclose(high, [1, 6])
    np.testing.assert_allclose(PIXELS.denormalise(low - 1), [0, 0])
    np.testing.assert_allclose(PIXELS.denormalise(high + 1), [1, 1])
