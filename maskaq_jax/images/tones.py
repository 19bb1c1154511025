"""The tones of photographs, for images of any scale."""

import jax
import jax.numpy as jnp
from jax import Array

# How the second and the third channel colour the first, for red, green and blue: reds against
# blues for the most part, greens little.
_TINTS = ((1.0, 0.3), (-0.2, 0.1), (-1.0, 0.5))


def give_tones(key: Array, image: Array) -> Array:
    """[height, width, 3] of 0 to 1, of an image of any scale.

    Its first channel becomes the brightness, and the others a tint that is weaker than that. The
    mean and the contrast are drawn about those of photographs.

    Args:
      key: PRNG key.
      image: [height, width, 3] float32.
    """
    chroma_key, mean_key, cast_key, contrast_key = jax.random.split(key, 4)
    spread = jnp.maximum(image.std(axis=(0, 1), keepdims=True), 1e-6)
    standard = (image - image.mean(axis=(0, 1), keepdims=True)) / spread
    tint = standard[..., 1:] @ jnp.asarray(_TINTS).T
    chroma = jax.random.uniform(chroma_key, minval=0.1, maxval=0.6)
    toned = standard[..., :1] + chroma * tint
    toned = toned / jnp.maximum(toned.std(), 1e-6)
    mean = 0.45 + 0.12 * jax.random.normal(mean_key) + 0.05 * jax.random.normal(cast_key, (1, 1, 3))
    contrast = jax.random.uniform(contrast_key, minval=0.14, maxval=0.3)
    return jnp.clip(jnp.clip(mean, 0.1, 0.9) + contrast * toned, 0, 1)
