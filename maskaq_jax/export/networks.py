"""The networks that are exported: what each model computes, written once for all operators.

Where a value is rounded, it is so before it is moved, so that a quarter of the bytes move. The
logits' factor `d^-1/2` is one with the query's step in a ViT; a Swin scales its query before it
rounds it, so that there it is one with the weights. Bias and mask of windows are one constant a
block.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from maskaq_jax.export import parts, swin_networks, vit_networks
from maskaq_jax.export.operators import Operators
from maskaq_jax.models import Model
from maskaq_jax.models.linear_segmenter import LinearSegmenter
from maskaq_jax.models.swin import SwinTransformer
from maskaq_jax.models.swin_fpn import SwinFpn
from maskaq_jax.models.upernet import UperNet
from maskaq_jax.models.vit import VisionTransformer
from maskaq_jax.models.yolos import Yolos
from maskaq_jax.schema import ConfigError

Value = TypeVar("Value")

_NETWORKS: dict[type, Callable[..., Any]] = {
    VisionTransformer: vit_networks.classifier,
    SwinTransformer: swin_networks.classifier,
    Yolos: vit_networks.detector,
    LinearSegmenter: vit_networks.segmenter,
    UperNet: swin_networks.segmenter,
    SwinFpn: swin_networks.pyramid,
}


def outputs(ops: Operators[Value], model: Model, variables: Any, images: Value) -> Any:
    """What `model.apply(variables, images)` returns first, with values for arrays.

    Args:
      ops: who computes it.
      model: Q, or a model in full precision.
      variables: its `params` and `quant`, on the host.
      images: in the form that `ops.patches` takes.

    Raises:
      ConfigError: there is no rule for such a model, or a quantizer has no integer codes.
    """
    for kind, network in _NETWORKS.items():
        if isinstance(model, kind):
            return network(ops, parts.Reader(model, variables), model, images)
    raise ConfigError(f"there is no rule to export a {type(model).__name__} yet")
