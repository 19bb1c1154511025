"""State dicts of other projects -> timm's names: the original Swin, and Hugging Face transformers'
ViT, DeiT, Swin and Dinov2.

Only names are looked at, and the separate projections of query, key and value joined; whether the
result fits a model is for `torch_import` to say.
"""

import re
from collections.abc import Mapping

import numpy as np

State = dict[str, np.ndarray]

# What is computed from the architecture, or is of no use without the training it served.
_DROPPED = re.compile(
    r"(^|\.)(relative_position_index|relative_coords_table|attn_mask|mask_token|position_ids)$"
    r"|^([a-z0-9]+\.)?pooler\."
)

# In order; a name takes every change that matches it. Version 5 of transformers has other names in
# memory (`q_proj`, `o_proj`, `mlp`) than in the files it writes.
_HUGGING_FACE_NAMES = [
    (r"^(vit|deit|swin|dinov2)\.", ""),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^encoder\.layers\.", "layers."),
    (r"^layers\.(\d+)\.(?=attention|layernorm|mlp)", r"blocks.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.(attention|self)\.", ".attn."),
    (r"\.attn\.([qkv])(uery|ey|alue)\.", r".attn.\1."),
    (r"\.attention\.relative_position_bias\.", ".attn."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
    (r"^(cls_)?classifier\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
]


def to_timm(state: Mapping[str, np.ndarray]) -> State:
    """Renames a state dict to timm's names; one that has them already stays as it is.

    Args:
      state: name -> array, in PyTorch's layouts.

    Returns:
      The same arrays under timm's names, without buffers; query, key and value joined to `qkv`.
    """
    kept = {name: array for name, array in state.items() if not _DROPPED.search(name)}
    if any(re.search(r"(^|\.)embeddings\.patch_embeddings\.", name) for name in kept):
        kept = _join_projections({_from_hugging_face(name): kept[name] for name in kept})
        if _is_swin(kept):
            kept = _merge_before_stage(kept)
    elif "layers.0.downsample.reduction.weight" in kept:
        # timm's own Swin merges patches at the start of a stage, and has none in the first.
        kept = _merge_before_stage(kept)
    if _is_swin(kept):
        kept = {re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name): kept[name] for name in kept}
    return kept


def _is_swin(state: Mapping[str, np.ndarray]) -> bool:
    return any("relative_position_bias_table" in name for name in state)


def _from_hugging_face(name: str) -> str:
    for pattern, replacement in _HUGGING_FACE_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _join_projections(state: Mapping[str, np.ndarray]) -> State:
    joined = {}
    for name, array in state.items():
        match = re.fullmatch(r"(.*\.attn)\.([qkv])\.(weight|bias)", name)
        if match is None:
            joined[name] = array
            continue
        block, part, leaf = match.groups()
        parts = [f"{block}.{each}.{leaf}" for each in "qkv"]
        if part == "q" and all(each in state for each in parts):
            joined[f"{block}.qkv.{leaf}"] = np.concatenate([state[each] for each in parts])
    return joined


def _merge_before_stage(state: Mapping[str, np.ndarray]) -> State:
    """Moves patch merging from the end of a stage to the start of the next."""

    def later(match: re.Match[str]) -> str:
        return f"layers.{int(match[1]) + 1}.downsample."

    return {re.sub(r"^layers\.(\d+)\.downsample\.", later, name): state[name] for name in state}
