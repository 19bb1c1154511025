"""What each layer of a model loses alone: `python -m maskaq_jax.sensitivity --workdir=RUN`."""

from maskaq_jax.sensitivity.suggestion import suggest_rules
from maskaq_jax.sensitivity.tensors import TensorLoss, count_tensors, measure

__all__ = ["TensorLoss", "count_tensors", "measure", "suggest_rules"]
