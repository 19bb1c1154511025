"""Shapes of what a model takes and holds, without values."""

from typing import Any

import jax
import jax.numpy as jnp

from maskaq_jax.models import Model


def variable_shapes(model: Model) -> Any:
    """Shapes of Q's calibrated variables, `params` and `quant`."""
    # In full precision there are no quantizers.
    return {"quant": {}} | jax.eval_shape(model.init, key_shape(), image_shapes(model, 1))


def key_shape() -> Any:
    return jax.eval_shape(jax.random.key, 0)


def image_shapes(model: Model, batch_size: int) -> Any:
    return jax.ShapeDtypeStruct((batch_size, *model.input_shape), jnp.float32)
