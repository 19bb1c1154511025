"""Q's first step sizes and zero points, from images."""

from typing import Any

from jax import Array

from maskaq_jax.models import Model


def calibrate(model: Model, params: Any, images: Array) -> Any:
    """Initialises every activation quantizer in one forward pass.

    Each quantizer sees the output of the already quantized layers before it (`docs/method.md`
    section 1).

        >>> quant = calibrate(model, params, images)
        >>> logits, out = model.apply({"params": params, "quant": quant}, images)

    Args:
      model: Q.
      params: the weights it shares with P.
      images: [B, height, width, channels] float32, normalised.

    Returns:
      The `quant` collection; empty if no activation is quantized.
    """
    # Not compiled: a pass runs once, and fused sums round other values to the other side of a tie
    # than PyTorch's do, which shows in the steps of the layers behind.
    _, updates = model.apply({"params": params}, images, mutable=["quant"])
    return updates.get("quant", {})
