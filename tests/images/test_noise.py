"""Gaussian images and what blurs them."""

import jax
import jax.numpy as jnp
import numpy as np

from maskaq_jax.images import noise


def test_blur_keeps_a_constant_and_smooths_noise():
    images = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    np.testing.assert_allclose(noise.blur(jnp.ones_like(images), 0.2), 1, rtol=1e-6)
    assert noise.blur(images, 0.2).std() < 0.5 * images.std()
    np.testing.assert_allclose(noise.blur(images, 0.0), images, atol=1e-6)


def test_images_of_spread_smoothness_have_their_own():
    indices = jnp.arange(200)
    smoothness = noise.draw_smoothness(jax.random.key(0), indices, 0.1, 1.2)
    exponents = np.log(np.asarray(smoothness) / 0.1) / 1.2
    assert np.abs(exponents).max() <= 1
    assert abs(exponents.mean()) < 0.15
    assert abs(exponents.std() - 1 / np.sqrt(3)) < 0.06
    again = noise.draw_smoothness(jax.random.key(0), indices[50:], 0.1, 1.2)
    np.testing.assert_array_equal(again, smoothness[50:])


def test_each_image_is_blurred_by_its_own_smoothness():
    images = jax.random.normal(jax.random.key(1), (3, 12, 12, 3))
    smoothness = jnp.asarray([0.02, 0.1, 0.3])
    blurred = noise.blur(images, smoothness)
    for i in range(3):
        alone = noise.blur(images[i : i + 1], smoothness[i])[0]
        np.testing.assert_allclose(blurred[i], alone, atol=1e-6)
