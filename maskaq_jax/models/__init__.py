"""Flax models that return `(logits, out)` and serve as P and, quantized, as Q."""

from maskaq_jax.models.layers import Quantization
from maskaq_jax.models.protocol import Model
from maskaq_jax.models.registry import (
    create_model,
    description,
    family_of,
    full_precision,
    layer_names,
    model_names,
)
from maskaq_jax.models.rules import Bits, Rule, parse_bits
from maskaq_jax.models.rules import join as join_rules

__all__ = [
    "Bits",
    "Model",
    "Quantization",
    "Rule",
    "create_model",
    "description",
    "family_of",
    "full_precision",
    "join_rules",
    "layer_names",
    "model_names",
    "parse_bits",
]
