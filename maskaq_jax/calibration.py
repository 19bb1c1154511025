"""Q's first step sizes and zero points, from images."""

from typing import Any

import flax.linen as nn
import jax
from jax import Array


def calibrate(model: nn.Module, params: Any, images: Array) -> Any:
    """Initialises every activation quantizer in one forward pass.

    Each quantizer sees the output of the already quantized layers before it (`method.md` section
    1).

    Args:
      model: Q.
      params: the weights it shares with P.
      images: [B, height, width, channels] float32, normalised.

    Returns:
      The `quant` collection; empty if no activation is quantized.
    """

    @jax.jit
    def initialise(params: Any, images: Array) -> Any:
        _, updates = model.apply({"params": params}, images, mutable=["quant"])
        return updates.get("quant", {})

    return initialise(params, images)
