"""Gaussian images and their blur: what synthesis starts from, and the floor for comparisons."""

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.devices import arrays
from maskaq_jax.devices.keys import image_keys, named_key
from maskaq_jax.images.pixels import Pixels


def draw_noise(key: Array, indices: Array, shape: tuple[int, ...], pixels: Pixels) -> Array:
    """[B, *shape] Gaussian images in normalised pixel space; equal channels if `pixels.grey`.

    Raises:
      ValueError: as of `image_keys`.
    """
    keys = image_keys(named_key(key, "noise"), indices)
    if not pixels.grey:
        return jax.vmap(lambda k: jax.random.normal(k, shape))(keys)
    noise = jax.vmap(lambda k: jax.random.normal(k, (*shape[:-1], 1)))(keys)
    return jnp.broadcast_to(noise, (len(indices), *shape))


def draw_smoothness(key: Array, indices: Array, smoothness: float, spread: float) -> Array | float:
    """[B] float32 smoothness of each image, log-uniform within a factor of `exp(spread)`.

    Without a spread all have the same, which is returned as it is.

    Raises:
      ValueError: as of `image_keys`, where there is a spread.
    """
    if not spread:
        return smoothness
    keys = image_keys(named_key(key, "smoothness"), indices)
    exponent = jax.vmap(lambda k: jax.random.uniform(k, (), minval=-1.0, maxval=1.0))(keys)
    return smoothness * jnp.exp(spread * exponent)


def blur(images: Array, smoothness: Array | float) -> Array:
    """Blurs images with a Gaussian, renormalised at the border.

    Args:
      images: [B, height, width, channels].
      smoothness: [] or [B] standard deviation, as a share of the image side.

    Raises:
      ValueError: images of other axes or not of floating dtype, or a smoothness of other images.
    """
    arrays.check_axes("images", images, "batch height width channels", "floating")
    if jnp.ndim(smoothness):
        arrays.check_axes("smoothness", smoothness, "batch", batch=len(images))
        return jax.vmap(lambda image, own: blur(image[None], own)[0])(images, smoothness)

    def kernel(size: int) -> Array:
        position = jnp.arange(size, dtype=jnp.float32)
        distance = (position[:, None] - position[None]) / jnp.maximum(smoothness * size, 1e-3)
        weight = jnp.exp(-0.5 * jnp.square(distance))
        return weight / weight.sum(axis=1, keepdims=True)

    return jnp.einsum("ih,jw,bhwc->bijc", kernel(images.shape[1]), kernel(images.shape[2]), images)
