import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.images import dead_leaves
from maskaq_jax.images.pixels import Pixels

KEY = jax.random.key(0)
SHAPE = (32, 24, 3)
PIXELS = Pixels()


def _draw(indices, shape=SHAPE, pixels=PIXELS):
    indices = jnp.asarray(indices)
    return np.asarray(
        jax.jit(lambda own: dead_leaves.draw_leaves(KEY, own, shape, pixels))(indices)
    )


@pytest.fixture(scope="module")
def images():
    return _draw(range(8))


def test_they_are_real_pixels_of_many_colours(images):
    pixels = np.asarray(PIXELS.denormalise(images))
    low, high = (np.asarray(bound) for bound in PIXELS.bounds())
    assert images.shape == (8, *SHAPE)
    assert (images >= low - 1e-6).all()
    assert (images <= high + 1e-6).all()
    # Dark and bright, as pictures are, and no two alike.
    assert 0.2 < pixels.mean() < 0.8
    assert pixels.std() > 0.15
    assert np.ptp(pixels.mean(axis=(1, 2, 3))) > 0.1


def test_an_image_depends_on_its_number_alone(images):
    np.testing.assert_allclose(_draw([5, 2]), images[[5, 2]], atol=1e-5)


def test_grey_ones_have_equal_channels():
    grey = _draw(range(2), pixels=Pixels(mean=(0.3,) * 3, std=(0.3,) * 3, grey=True))
    np.testing.assert_array_equal(grey[..., 0], grey[..., 1])


def test_neighbours_are_alike_but_for_edges(images):
    """As in photographs: most differences are small, and a few are large."""
    pixels = np.asarray(PIXELS.denormalise(images)).mean(axis=-1)
    differences = np.abs(np.diff(pixels, axis=2)).ravel()
    assert np.median(differences) < 0.3 * pixels.std()
    kurtosis = np.mean(differences**4) / np.mean(differences**2) ** 2
    # 3 for noise, of whatever smoothness.
    assert kurtosis > 4.5
