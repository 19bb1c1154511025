import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.pixels import Pixels

PIXELS = Pixels(mean=(0.5, 0.25), std=(0.25, 0.5))
BYTES = np.asarray([[[0, 255], [51, 102]]], np.uint8)
IMAGES = [[[-2.0, 1.5], [-1.2, 0.3]]]


def test_bytes_become_inputs_by_the_statistics_of_their_channel():
    images = PIXELS.from_bytes(BYTES)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, IMAGES, rtol=1e-6)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (3, 1, 5, 2)])
def test_normalisation_is_undone(shape):
    pixels = np.random.default_rng(0).random(shape, np.float32)
    for asarray in (np.asarray, jnp.asarray):
        images = PIXELS.normalise(asarray(pixels))
        assert isinstance(images, type(asarray(pixels)))
        np.testing.assert_allclose(PIXELS.denormalise(images), pixels, atol=1e-6)


def test_what_no_pixel_gives_is_cut_off():
    low, high = PIXELS.bounds()
    np.testing.assert_allclose(low, [-2, -0.5])
    np.testing.assert_allclose(high, [2, 1.5])
    np.testing.assert_allclose(PIXELS.denormalise(low - 1), [0, 0])
    np.testing.assert_allclose(PIXELS.denormalise(high + 1), [1, 1])
