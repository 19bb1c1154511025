"""State dicts of other projects -> timm's names: the original Swin, DINOv2 and DeiT III, OpenCLIP,
torchvision's ViT and Swin, and Hugging Face transformers' ViT, DeiT, Swin, Dinov2, and the image
towers of CLIP and SigLIP.

Only names are looked at, and the separate projections of query, key and value joined; whether the
result fits a model is for `torch_import` to say.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

State = dict[str, np.ndarray]

# What is computed from the architecture, or is of no use without the training it served.
_DROPPED = re.compile(
    r"(^|\.)(relative_position_index|relative_coords_table|attn_mask|mask_token|position_ids)$"
    r"|^([a-z0-9_]+\.)?pooler\."
)
# Of CLIP's and SigLIP's towers for text, beside those for images.
_OF_TEXT = re.compile(
    r"^(text_model\.|text\.|transformer\.resblocks\.|token_embedding\.|ln_final\.)"
    r"|^(text_projection(\.weight)?|positional_embedding|logit_scale|logit_bias)$"
)
_OF_IMAGES = re.compile(r"(^|\.)(vision_model|visual)\.")
_FROM_HUGGING_FACE = re.compile(r"(^|\.)embeddings\.patch_embeddings?\.")
_WITHOUT_AXES = re.compile(
    r"embeddings\.(class_embedding|position_embedding\.weight)$"
    r"|^visual\.(class|positional)_embedding$"
)
_FROM_OPEN_CLIP, _FROM_TORCHVISION = "visual.conv1.weight", "conv_proj.weight"
_SWIN_OF_TORCHVISION = "features.0.0.weight"

# In order; a name takes every change that matches it. Version 5 of transformers has other names in
# memory (`q_proj`, `o_proj`, `mlp`) than in the files it writes.
_HUGGING_FACE_NAMES = [
    (r"^(vit|deit|swin|dinov2|dinov2_with_registers|vision_model)\.", ""),
    (r"^embeddings\.(cls_token|class_embedding)$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.(position_embeddings|position_embedding\.weight)$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^encoder\.layers\.", "layers."),
    (r"^layers\.(\d+)\.(?=attention|layernorm|mlp|self_attn|layer_norm)", r"blocks.\1."),
    (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.in_proj_"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
    (r"^visual_projection\.", "head."),
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


# Names that the projects themselves use, where transformers is none of them.
_ORIGINAL_NAMES = [
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2's, in chunks for training
    (r"^register_tokens$", "reg_token"),
    (r"\.gamma_(\d)$", r".ls\1.gamma"),
]
_OPEN_CLIP_NAMES = [
    (r"^visual\.class_embedding$", "cls_token"),
    (r"^visual\.positional_embedding$", "pos_embed"),
    (r"^visual\.conv1\.", "patch_embed.proj."),
    (r"^visual\.ln_pre\.", "norm_pre."),
    (r"^visual\.ln_post\.", "norm."),
    (r"^visual\.transformer\.resblocks\.(\d+)\.", r"blocks.\1."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
]
_TORCHVISION_NAMES = [
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"^encoder\.ln\.", "norm."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.in_proj_"),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(linear_1|0)\.", ".mlp.fc1."),
    (r"\.mlp\.(linear_2|3)\.", ".mlp.fc2."),
    (r"^heads\.head\.", "head."),
]
# Modules of a Swin are numbered through: the stem, and blocks and merging by turns.
_TORCHVISION_SWIN_NAMES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"^features\.(\d+)\.(?=norm|reduction)", lambda m: f"layers.{int(m[1]) // 2}.downsample."),
    (r"^features\.(\d+)\.(?=\d)", lambda m: f"layers.{int(m[1]) // 2}.blocks."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
]


def has_towers(names: Iterable[str]) -> bool:
    """Whether a model's names are those of a tower for images, beside which may be one for text."""
    return any(_OF_IMAGES.search(name) for name in names)


def without_text(state: Mapping[str, np.ndarray]) -> State:
    """A tower for images, its prefix taken off, without that for text beside it."""
    return {name: state[name] for name in state if not _OF_TEXT.search(name)}


def to_timm(state: Mapping[str, np.ndarray]) -> State:
    """Renames a state dict to timm's names; one that has them already stays as it is.

    Args:
      state: name -> array, in PyTorch's layouts.

    Returns:
      The same arrays under timm's names, without buffers; query, key and value joined to `qkv`.
    """
    kept = {name: array for name, array in state.items() if not _DROPPED.search(name)}
    kept = _with_axes(kept)
    if any(_FROM_HUGGING_FACE.search(name) for name in kept):
        kept = _join_projections(_renamed(kept, _HUGGING_FACE_NAMES))
        if _is_swin(kept):
            kept = _merge_before_stage(kept)
    elif _FROM_OPEN_CLIP in kept:
        kept = _with_projection(_renamed(kept, _OPEN_CLIP_NAMES))
    elif _FROM_TORCHVISION in kept:
        kept = _renamed(kept, _TORCHVISION_NAMES)
    elif _SWIN_OF_TORCHVISION in kept:
        kept = _renamed(kept, _TORCHVISION_SWIN_NAMES)
    elif "layers.0.downsample.reduction.weight" in kept:
        # timm's own Swin merges patches at the start of a stage, and has none in the first.
        kept = _merge_before_stage(kept)
    else:
        kept = _renamed(kept, _ORIGINAL_NAMES)
    if _is_swin(kept):
        kept = {re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name): kept[name] for name in kept}
        return kept
    kept = _split_packed(kept)
    return kept | _with_projection_bias(kept)


def _is_swin(state: Mapping[str, np.ndarray]) -> bool:
    return any("relative_position_bias_table" in name for name in state)


def _renamed(state: Mapping[str, np.ndarray], names: Sequence[tuple[str, Any]]) -> State:
    """In order; a name takes every change that matches it."""
    renamed = {}
    for name, array in state.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        renamed[name] = array
    return renamed


def _split_packed(state: Mapping[str, np.ndarray]) -> State:
    """PyTorch's own attention packs three projections: timm's too, but for those of pooling."""
    split = {}
    for name, array in state.items():
        match = re.fullmatch(r"(.*)\.in_proj_(weight|bias)", name)
        if match is None:
            split[name] = array
        elif match[1] == "attn_pool":
            channels = len(array) // 3
            split[f"attn_pool.q.{match[2]}"] = array[:channels]
            split[f"attn_pool.kv.{match[2]}"] = array[channels:]
        else:
            split[f"{match[1]}.qkv.{match[2]}"] = array
    return split


def _with_axes(state: Mapping[str, np.ndarray]) -> State:
    """CLIP's token [C] and positions [tokens, C], with an axis for images as others have it."""
    return {
        name: array.reshape(1, -1, array.shape[-1])
        if _WITHOUT_AXES.search(name) and array.ndim in (1, 2)
        else array
        for name, array in state.items()
    }


def _with_projection(state: Mapping[str, np.ndarray]) -> State:
    """OpenAI's projection of features, [C, out] without a bias, as a classifier."""
    state = dict(state)
    if "visual.proj" in state:
        state["head.weight"] = state.pop("visual.proj").T
    return state


def _with_projection_bias(state: Mapping[str, np.ndarray]) -> State:
    """CLIP's projection of features has no bias, which a classifier has."""
    weight = state.get("head.weight")
    if "norm_pre.weight" not in state or weight is None or "head.bias" in state:
        return {}
    return {"head.bias": np.zeros(len(weight), np.float32)}


def _join_projections(state: Mapping[str, np.ndarray]) -> State:
    joined = {}
    for name, array in state.items():
        match = re.fullmatch(r"(.*\.attn)\.([qkv])\.(weight|bias)", name)
        if match is None:
            joined[name] = array
            continue
        block, part, leaf = match.groups()
        parts = [f"{block}.{each}.{leaf}" for each in "qkv"]
        if not all(each in state for each in parts):
            joined[name] = array
        elif part == "q":
            joined[f"{block}.qkv.{leaf}"] = np.concatenate([state[each] for each in parts])
    return joined


def _merge_before_stage(state: Mapping[str, np.ndarray]) -> State:
    """Moves patch merging from the end of a stage to the start of the next."""

    def later(match: re.Match[str]) -> str:
        return f"layers.{int(match[1]) + 1}.downsample."

    return {re.sub(r"^layers\.(\d+)\.downsample\.", later, name): state[name] for name in state}
