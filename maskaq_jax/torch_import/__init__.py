"""Weights, and what is said beside them <-> parameters."""

from maskaq_jax.torch_import.convert import (
    from_torch_state,
    load_torch_weights,
    read_companions,
    to_mmdetection_state,
    to_torch_state,
)
from maskaq_jax.torch_import.normalisation import usual as usual_normalisation

__all__ = [
    "from_torch_state",
    "load_torch_weights",
    "read_companions",
    "to_mmdetection_state",
    "to_torch_state",
    "usual_normalisation",
]
