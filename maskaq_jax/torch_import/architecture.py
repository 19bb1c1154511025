"""What model a state dict belongs to, as its shapes tell: for errors that name the mend."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from maskaq_jax.models import Model, create_model, model_names
from maskaq_jax.models.linear_segmenter import LinearSegmenter
from maskaq_jax.models.registry import FAMILIES, family_name, family_of
from maskaq_jax.models.swin import SwinTransformer
from maskaq_jax.models.swin_fpn import SwinFpn
from maskaq_jax.models.upernet import UperNet
from maskaq_jax.models.vit import VisionTransformer
from maskaq_jax.models.yolos import Yolos


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The part of a model's arguments that shows in the names and shapes of its weights.

    `depths` has an entry a stage, so one in ViT, whose heads and image size don't show. Nor does
    LayerScale's initial value: any stands for it.
    """

    family: str
    embed_dim: int
    depths: tuple[int, ...]
    patch_size: int
    in_chans: int
    num_classes: int
    distilled: bool = False
    init_values: float | None = None
    window_size: int | None = None
    mlp_ratio: float = 4.0
    pools_by_map: bool = False
    fc_norm: bool = False
    class_token: bool = True
    reg_tokens: int = 0
    qkv_bias: bool = True
    qk_norm: bool = False
    pre_norm: bool = False
    no_embed_class: bool = False
    num_detection_tokens: int | None = None
    mid_position_embeddings: bool | None = None
    hidden_size: int | None = None
    out_channels: int | None = None


# A kernel of each family's head; the first that is there tells.
_HEADS = {
    "head.weight": None,
    "head.fc.weight": None,
    "decode_head.weight": "vit_linear_seg",
    "decode_head.conv_seg.weight": "upernet_swin",
    "class_embed.layers.2.weight": "yolos",
    "neck.lateral_convs.0.weight": "swin_fpn",
}
# Of LayerScale in a description: what its weights were trained from is not known any more.
_SOME_SCALE = 1.0


def of_model(model: Model) -> Architecture:
    """The architecture of a model of `models.create_model`.

    Raises:
      TypeError: the model is of another family.
    """
    if isinstance(model, SwinTransformer | UperNet | SwinFpn):
        return Architecture(
            *(_family(model), model.embed_dim, tuple(model.depths), *_common(model)),
            window_size=model.window_size,
            mlp_ratio=_whole_ratio(model),
            hidden_size=getattr(model, "hidden_size", None),
            out_channels=getattr(model, "out_channels", None),
        )
    if isinstance(model, Yolos):
        return Architecture(
            *(_family(model), model.embed_dim, (model.depth,), *_common(model)),
            mlp_ratio=_whole_ratio(model),
            num_detection_tokens=model.num_detection_tokens,
            mid_position_embeddings=model.mid_position_embeddings and model.depth > 1,
        )
    if isinstance(model, LinearSegmenter):
        return Architecture(
            *(_family(model), model.embed_dim, (model.depth,), *_common(model)),
            init_values=None if model.init_values is None else _SOME_SCALE,
            mlp_ratio=_whole_ratio(model),
            reg_tokens=model.reg_tokens,
            no_embed_class=model.no_embed_class,
        )
    if not isinstance(model, VisionTransformer):
        raise TypeError(f"no weights of PyTorch are known for a {type(model).__name__}")
    return Architecture(
        *("vit", model.embed_dim, (model.depth,), *_common(model)),
        distilled=model.distilled,
        init_values=None if model.init_values is None else _SOME_SCALE,
        mlp_ratio=_whole_ratio(model),
        pools_by_map=model.global_pool == "map",
        fc_norm=model.has_fc_norm,
        class_token=model.class_token,
        reg_tokens=model.reg_tokens,
        qkv_bias=model.qkv_bias,
        qk_norm=model.qk_norm,
        pre_norm=model.pre_norm,
        no_embed_class=model.no_embed_class and model.patches.num_before > 0,
    )


def of_state(state: Mapping[str, np.ndarray]) -> Architecture | None:
    """The architecture of a state dict under timm's names; None if it is of no family."""
    stem = state.get("patch_embed.proj.weight")
    if stem is None or not _is_whole(stem, 4):
        return None
    family, num_classes, hidden = _head(state)
    embed_dim, in_chans, patch_size, _ = stem.shape
    common = (patch_size, in_chans, num_classes)
    if num_classes < 0:
        return None
    table = state.get("layers.0.blocks.0.attn.relative_position_bias_table")
    if table is not None:
        if not _is_whole(table, 2):
            return None
        # A table has a row for each offset of two tokens in a window, (2 w - 1)^2 of them.
        window_size = (math.isqrt(len(table)) + 1) // 2
        depths: list[int] = []
        while depth := _count(state, rf"layers\.{len(depths)}\.blocks\."):
            depths.append(depth)
        return Architecture(
            *(family or "swin", embed_dim, tuple(depths), *common),
            window_size=window_size,
            mlp_ratio=_mlp_ratio(state, "layers.0.blocks.0", embed_dim),
            **hidden,
        )
    depth = _count(state, r"blocks\.")
    if not depth:
        return None
    ratio = _mlp_ratio(state, "blocks.0", embed_dim)
    sizes = Architecture(family or "vit", embed_dim, (depth,), *common, mlp_ratio=ratio, **hidden)
    if family == "yolos":
        names = ("blocks.0.mid_pos_embed", "mid_pos_embed")
        return dataclasses.replace(
            sizes, mid_position_embeddings=any(name in state for name in names)
        )
    return _with_tokens(state, sizes)


def _with_tokens(state: Mapping[str, np.ndarray], sizes: Architecture) -> Architecture:
    """With what a ViT, or a model on one, has by choice."""
    registers = state.get("reg_token")
    return dataclasses.replace(
        sizes,
        distilled="dist_token" in state,
        init_values=_SOME_SCALE if "blocks.0.ls1.gamma" in state else None,
        pools_by_map="attn_pool.latent" in state,
        fc_norm="fc_norm.weight" in state,
        class_token="cls_token" in state,
        reg_tokens=0 if registers is None or registers.ndim != 3 else registers.shape[1],
        # A bias is the rule: where half of the weights are missing, nothing is said of it.
        qkv_bias="blocks.0.attn.qkv.bias" in state or "blocks.0.attn.qkv.weight" not in state,
        qk_norm="blocks.0.attn.q_norm.weight" in state,
        pre_norm="norm_pre.weight" in state,
        no_embed_class=_positions_are_of_patches(state),
    )


def _head(state: Mapping[str, np.ndarray]) -> tuple[str | None, int, dict[str, Any]]:
    """The family that a head is of, if it tells, its classes, and the sizes that show in it.

    Fewer than 0 classes where arrays are no kernels.
    """
    for name, family in _HEADS.items():
        kernel = state.get(name)
        if kernel is None:
            continue
        if not _is_whole(kernel, 2):
            return family, -1, {}
        if family is None:
            return None, len(kernel), {}
        if family == "swin_fpn":
            return family, 0, {"out_channels": len(kernel)}
        sizes = {"hidden_size": kernel.shape[1]} if family == "upernet_swin" else {}
        num_classes = len(kernel)
        if family == "yolos":
            tokens = state.get("det_token")
            sizes = {}
            if tokens is not None and _is_whole(tokens, 3):
                sizes = {"num_detection_tokens": tokens.shape[1]}
            num_classes -= 1  # that of no object
        return family, num_classes or -1, sizes
    return None, 0, {}


def _family(model: Model) -> str:
    """The name that stands for a model's family."""
    return next(family_name(family) for family in FAMILIES if isinstance(model, family.module))


def _common(model: Any) -> tuple[int, int, int]:
    """What all models have."""
    return model.patch_size, model.in_chans, model.num_classes


def _whole_ratio(model: Any) -> float:
    """The ratio that the number of hidden features shows."""
    return int(model.embed_dim * model.mlp_ratio) / model.embed_dim


def names_of(architecture: Architecture) -> list[str]:
    """Names of `create_model` for an architecture."""
    classes, channels = architecture.num_classes, architecture.in_chans
    return [
        name
        for name in model_names()
        if family_name(family_of(name)) == architecture.family
        and family_of(name).models[name]  # not a family
        and name != "deit_distilled"
        and of_model(create_model(name, classes, in_chans=channels)) == architecture
    ]


def describe(architecture: Architecture) -> str:
    """Names of `create_model` for an architecture; where there are none, its arguments."""
    if names := names_of(architecture):
        return f"{' or '.join(names)} with num_classes={architecture.num_classes}"
    arguments = {
        field.name: getattr(architecture, field.name)
        for field in dataclasses.fields(architecture)
        if getattr(architecture, field.name) != field.default
    }
    family = arguments.pop("family")
    if len(architecture.depths) == 1 and "swin" not in family:
        arguments["depth"] = arguments.pop("depths")[0]
    if family == "vit":
        if arguments.pop("pools_by_map", False):
            arguments["global_pool"] = "map"
        elif arguments.get("fc_norm") or not architecture.class_token:
            arguments["global_pool"] = "avg"
            if not arguments.pop("fc_norm", False):
                arguments["fc_norm"] = False
    return f"{family} with {', '.join(f'{name}={value}' for name, value in arguments.items())}"


def _is_whole(array: np.ndarray, rank: int) -> bool:
    return array.ndim == rank and array.size > 0


def _count(state: Mapping[str, np.ndarray], prefix: str) -> int:
    """How many numbered modules there are below a prefix."""
    matches = (re.match(rf"{prefix}(\d+)\.", name) for name in state)
    return len({match[1] for match in matches if match})


def _positions_are_of_patches(state: Mapping[str, np.ndarray]) -> bool:
    """Whether position embeddings fill a square, or would but for a class token among others."""
    embedding = state.get("pos_embed")
    others = [name for name in ("cls_token", "dist_token", "reg_token") if name in state]
    if embedding is None or embedding.ndim != 3 or not others:
        return False
    lengths = (embedding.shape[1], embedding.shape[1] - (1 if "reg_token" in state else 0))
    return any(math.isqrt(max(0, length)) ** 2 == length for length in lengths)


def _mlp_ratio(state: Mapping[str, np.ndarray], block: str, embed_dim: int) -> float:
    hidden = state.get(f"{block}.mlp.fc1.weight")
    return 4.0 if hidden is None or not _is_whole(hidden, 2) else len(hidden) / embed_dim
