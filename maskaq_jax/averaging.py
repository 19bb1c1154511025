"""Averages the parameters that the last steps of a training lead to."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array


class AveragingState(NamedTuple):
    """Of `average_at_end`.

    Attributes:
      step: [] int32 updates so far.
      mean: of the parameters after the updates that count.
      inner: the wrapped optimiser's state.
    """

    step: Array
    mean: Any
    inner: Any


def average_at_end(
    optimizer: optax.GradientTransformation, num_steps: int, num_averaged: int
) -> optax.GradientTransformation:
    """Makes the last update land on the mean of what the last updates led to.

    Stochastic weight averaging (Izmailov et al. 2018), a mean over steps.

    Args:
      optimizer: makes the updates.
      num_steps: updates there will be.
      num_averaged: updates at the end whose results count.
    """

    def init(params: Any) -> AveragingState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AveragingState(jnp.zeros((), jnp.int32), zeros, optimizer.init(params))

    def update(
        gradient: Any, state: AveragingState, params: Any = None
    ) -> tuple[Any, AveragingState]:
        updates, inner = optimizer.update(gradient, state.inner, params)
        count = state.step + 1 - (num_steps - num_averaged)
        weight = jnp.where(count > 0, 1 / jnp.maximum(count, 1), 0.0)
        mean = jax.tree.map(
            lambda mean, value: mean + weight * (value - mean),
            state.mean,
            optax.apply_updates(params, updates),
        )
        is_last = state.step + 1 == num_steps
        updates = jax.tree.map(
            lambda update, value, mean: jnp.where(is_last, mean - value, update),
            updates,
            params,
            mean,
        )
        return updates, AveragingState(state.step + 1, mean, inner)

    return optax.GradientTransformation(init, update)
