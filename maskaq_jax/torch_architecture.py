"""What model a state dict belongs to, as its shapes tell: for errors that name the mend."""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from maskaq_jax.models import Model, create_model, model_names
from maskaq_jax.models.swin import SwinTransformer


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The part of a model's arguments that shows in the shapes of its weights.

    `depths` has an entry a stage, so one in ViT, whose heads and image size don't show.
    """

    family: str
    embed_dim: int
    depths: tuple[int, ...]
    patch_size: int
    in_chans: int
    num_classes: int
    distilled: bool = False
    layer_scale: bool = False
    window_size: int | None = None


def of_model(model: Model) -> Architecture:
    """The architecture of a model of `models.create_model`."""
    common = (model.patch_size, model.in_chans, model.num_classes)
    if isinstance(model, SwinTransformer):
        depths = tuple(model.depths)
        return Architecture("swin", model.embed_dim, depths, *common, window_size=model.window_size)
    layer_scale = model.init_values is not None
    return Architecture(
        "vit", model.embed_dim, (model.depth,), *common, model.distilled, layer_scale
    )


def of_state(state: Mapping[str, np.ndarray]) -> Architecture | None:
    """The architecture of a state dict under timm's names; None if it is of neither family."""
    stem = state.get("patch_embed.proj.weight")
    heads = [state[name] for name in ("head.weight", "head.fc.weight") if name in state]
    table = state.get("layers.0.blocks.0.attn.relative_position_bias_table")
    if stem is None or not _is_whole(stem, 4) or not all(_is_whole(head, 2) for head in heads):
        return None
    embed_dim, in_chans, patch_size, _ = stem.shape
    common = (patch_size, in_chans, len(heads[0]) if heads else 0)
    if table is not None:
        if not _is_whole(table, 2):
            return None
        # A table has a row for each offset of two tokens in a window, (2 w - 1)^2 of them.
        window_size = (math.isqrt(len(table)) + 1) // 2
        depths: list[int] = []
        while depth := _count(state, rf"layers\.{len(depths)}\.blocks\."):
            depths.append(depth)
        return Architecture("swin", embed_dim, tuple(depths), *common, window_size=window_size)
    depth = _count(state, r"blocks\.")
    if not depth:
        return None
    return Architecture(
        "vit", embed_dim, (depth,), *common, "dist_token" in state, "blocks.0.ls1.gamma" in state
    )


def describe(architecture: Architecture) -> str:
    """Names of `create_model` for an architecture; where there are none, its arguments."""
    classes, channels = architecture.num_classes, architecture.in_chans
    names = [
        name
        for name in model_names()
        if "_patch" in name  # not a family
        and of_model(create_model(name, classes, in_chans=channels)) == architecture
    ]
    if names:
        return f"{' or '.join(names)} with num_classes={classes}"
    arguments = dataclasses.asdict(architecture)
    family = arguments.pop("family")
    if family == "vit":
        arguments["depth"] = arguments.pop("depths")[0]
    shown = [f"{name}={value}" for name, value in arguments.items() if value not in (None, False)]
    return f"{family} with {', '.join(shown)}"


def _is_whole(array: np.ndarray, rank: int) -> bool:
    return array.ndim == rank and array.size > 0


def _count(state: Mapping[str, np.ndarray], prefix: str) -> int:
    """How many numbered modules there are below a prefix."""
    matches = (re.match(rf"{prefix}(\d+)\.", name) for name in state)
    return len({match[1] for match in matches if match})
