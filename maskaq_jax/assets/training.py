"""How the embedded teachers are trained: one step, the schedule, and a state that is kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from maskaq_jax.storage import whole_files

_EMA_DECAY = 0.999


@flax.struct.dataclass
class State:
    """What a step updates: step count, weights, optimiser state and averaged weights."""

    step: Array
    params: Any
    opt_state: Any
    average: Any


def adamw(warmup_steps: int, steps: int, peak: float) -> optax.GradientTransformation:
    """AdamW whose rate rises to a peak and falls along a cosine, on gradients of at most norm 1."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, steps, end_value=1e-5)
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.05)
    )


def first_state(params: Any, optimizer: optax.GradientTransformation) -> State:
    """A state before the first step."""
    average = jax.tree.map(jnp.copy, params)
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), average)


def step(
    loss: Callable[[Any], Array], optimizer: optax.GradientTransformation, state: State
) -> tuple[State, Array]:
    """One step on a loss of the weights, and that loss before it."""
    value, gradients = jax.value_and_grad(loss)(state.params)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # A young average would remember the initial weights.
    decay = jnp.minimum(_EMA_DECAY, (1 + state.step) / (10 + state.step))
    average = optax.incremental_update(params, state.average, 1 - decay)
    return State(state.step + 1, params, opt_state, average), value


def restore(path: Path, state: State) -> State:
    """The state that was saved, or the given one where none was."""
    return flax.serialization.from_bytes(state, path.read_bytes()) if path.exists() else state


def save(path: Path, state: State) -> None:
    """Saves a state, whole or not at all."""
    whole_files.write_bytes(path, flax.serialization.to_bytes(state))
