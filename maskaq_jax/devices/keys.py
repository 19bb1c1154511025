"""Keys derived from named purposes: no draw depends on devices or interruptions."""

import zlib

import jax
from jax import Array
from jax.typing import ArrayLike

from maskaq_jax.devices import arrays


def named_key(key: Array, purpose: str) -> Array:
    """The key of one purpose: a PRNG key folded with the purpose's name."""
    return jax.random.fold_in(key, zlib.crc32(purpose.encode()))


def image_keys(key: Array, indices: Array, step: ArrayLike = 0) -> Array:
    """One key per image and step.

    Args:
      key: a purpose's key.
      indices: [B] global numbers of the images.
      step: [] step.

    Returns:
      [B] PRNG keys.

    Raises:
      ValueError: numbers of other axes, or no integers.
    """
    arrays.check_axes("indices", indices, "batch", "integer")
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), indices)
