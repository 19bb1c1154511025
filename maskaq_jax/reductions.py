"""Sums and means over the global batch, padding left out.

With `axis_name`, they are over every device of that mapped axis, and the same on each. With
`valid`, [B] bool, images where it is false don't count.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def mean(x: Array, axis_name: str | None, valid: Array | None) -> Array:
    """Mean over all of [B, ...]."""
    if valid is None:
        local = x.mean()
        return local if axis_name is None else jax.lax.pmean(local, axis_name)
    return total(x, axis_name, valid) / total(jnp.ones_like(x), axis_name, valid)


def total(x: Array, axis_name: str | None, valid: Array | None) -> Array:
    """Over all of [B, ...], or of [B * windows, ...] with an image's windows in a row."""
    if valid is not None:
        by_image = x.reshape(len(valid), -1)
        x = jnp.where(valid[:, None], by_image, 0.0)
    local = x.sum()
    return local if axis_name is None else jax.lax.psum(local, axis_name)


def norm(x: Array, axis_name: str | None, valid: Array | None) -> Array:
    """Frobenius norm."""
    return safe_sqrt(total(jnp.square(x), axis_name, valid))


def safe_sqrt(x: Array) -> Array:
    """Square root with slope 0 at 0, where sqrt's is infinite."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def absolute(x: Array) -> Array:
    """|x| with slope 0 at 0, where that of `jnp.abs` is 1: what agrees is left as it is."""
    return x * jax.lax.stop_gradient(jnp.sign(x))


def mean_over_layers(layer_loss: Callable[..., Array], *layers: Iterable[Any]) -> Array:
    """[] mean of `layer_loss`, [], mapped over layers; traced once for those of one shape.

    Raises:
      ValueError: sequences of layers differ in length.
    """
    traced = jax.jit(layer_loss)
    return jnp.stack([traced(*layer) for layer in zip(*layers, strict=True)]).mean()
