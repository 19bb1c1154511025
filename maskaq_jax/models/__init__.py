"""Flax models that return `(logits, out)` and serve as P and, quantized, as Q."""

from maskaq_jax.models.layers import Quantization
from maskaq_jax.models.registry import create_model, model_names
from maskaq_jax.models.vit import VisionTransformer

__all__ = ["Quantization", "VisionTransformer", "create_model", "model_names"]
