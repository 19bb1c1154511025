"""Flax models that return `(logits, out)` and serve as P and, quantized, as Q."""

from maskaq_jax.models.layers import Quantization
from maskaq_jax.models.registry import Model, create_model, full_precision, model_names

__all__ = ["Model", "Quantization", "create_model", "full_precision", "model_names"]
