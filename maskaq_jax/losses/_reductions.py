"""Reductions that losses share."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


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
