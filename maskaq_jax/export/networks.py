"""The networks that are exported: what each model computes, written once for all operators.

Where a value is rounded, it is so before it is moved, so that a quarter of the bytes move. The
logits' factor `d^-1/2` is one with the query's step in a ViT; a Swin scales its query before it
rounds it, so that there it is one with the weights. Bias and mask of windows are one constant a
block.
"""

from typing import Any, TypeVar

from maskaq_jax.export import parts, swin_networks, vit_networks
from maskaq_jax.export.operators import Operators
from maskaq_jax.models import Model
from maskaq_jax.models.swin import SwinTransformer
from maskaq_jax.models.vit import VisionTransformer
from maskaq_jax.schema import ConfigError

Value = TypeVar("Value")


def outputs(ops: Operators[Value], model: Model, variables: Any, images: Value) -> Value:
    """What `model.apply(variables, images)` returns first, [B, classes] or [B, features].

    Args:
      ops: who computes it.
      model: Q, or a model in full precision.
      variables: its `params` and `quant`, on the host.
      images: in the form that `ops.patches` takes.

    Raises:
      ConfigError: there is no rule for such a model, or a quantizer has no integer codes.
    """
    read = parts.Reader(model, variables)
    if isinstance(model, VisionTransformer):
        return vit_networks.classifier(ops, read, model, images)
    if isinstance(model, SwinTransformer):
        return swin_networks.classifier(ops, read, model, images)
    raise ConfigError(f"there is no rule to export a {type(model).__name__} yet")
