"""Fine-tuning's optimiser: a cosine for each group of parameters, and the mean of the last ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from maskaq_jax.finetuning.step import FinetuningSettings


def create_optimizer(settings: FinetuningSettings, num_steps: int) -> optax.GradientTransformation:
    """A cosine over `num_steps` for each group: the weights, step sizes, and zero points.

    The last update lands on the mean of what the last `averaged_share` of the updates led to.
    """

    def on_cosine(learning_rate: float) -> optax.GradientTransformation:
        schedule = optax.cosine_decay_schedule(
            learning_rate, max(1, num_steps), alpha=settings.final_learning_rate_ratio
        )
        if settings.optimizer == "adam":
            return optax.adam(schedule)
        return optax.sgd(schedule, momentum=0.9, nesterov=True)

    def in_shares(learning_rate: float, least: float) -> optax.GradientTransformation:
        """Of each tensor's root mean square, or of the least one."""
        return optax.chain(on_cosine(learning_rate), optax.scale_by_param_block_rms(least))

    groups = {"quant": on_cosine(settings.quantizer_learning_rate)}
    if settings.relative_learning_rate:
        # Biases may be zeros, and must move nevertheless.
        groups["params"] = in_shares(settings.relative_learning_rate, least=1e-3)
    else:
        groups["params"] = on_cosine(settings.learning_rate)
    if settings.step_learning_rate:
        # A step size is a tensor of one number, whose root mean square is its size.
        groups["steps"] = in_shares(settings.step_learning_rate, least=0.0)

    def label(path: tuple[Any, ...], _: Array) -> str:
        if path[0].key == "params":
            return "params"
        is_step = path[-1].key == "step"
        return "steps" if is_step and settings.step_learning_rate else "quant"

    optimizer = optax.partition(
        groups, lambda trained: jax.tree_util.tree_map_with_path(label, trained)
    )
    if not settings.averaged_share:
        return optimizer
    num_averaged = max(1, round(settings.averaged_share * num_steps))
    return average_at_end(optimizer, num_steps, num_averaged)


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
