"""Models that look like a ViT or a Swin and compute something else, known by their weights' names,
by what is missing among these, by a shape, or by timm's name.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_ROTARY = "ViT with rotary position embeddings"
# Patterns of which a model has the first and lacks the second. In order: the first row that fits
# names the model.
_OTHERS: list[tuple[str, str | None, str]] = [
    (r"cpb_mlp\.|continuous_position_bias_mlp\.|^(.*\.)?swinv2\.", None, "Swin V2"),
    (r"\.attn\.meta_mlp\.", None, "Swin V2-CR"),
    (r"(^|\.)rms_norm\d?\.|preprocessor\.patchifier\.", None, "AIMv2"),
    (r"blocks\.\d+\.mlp\.fc1_g\.", r"blocks\.\d+\.norm1\.bias$", "AIMv2"),
    (r"storage_tokens|rope_embed|^((dinov3_vit|model)\.)?layer\.\d+\.", None, "DINOv3"),
    (r"blocks\.\d+\.mlp\.fc1_[gx]\.|^(.*\.)?rope\.freqs_bands$", None, "EVA"),
    (r"^(.*\.)?rope\.", None, _ROTARY),
    (r"\.mlp\.(w12|w1|w2|w3|weights_in|weights_out|gate_proj)\.", None, "ViT with SwiGLU"),
    (r"\.rel_pos\.", None, "ViT with relative positions"),
    (r"\.rel_pos_[hw]$", None, "SAM"),
    (r"blocks\.\d+\.attn\.(q_bias|v_bias)$", None, "BEiT or EVA"),
    (
        r"^(.*\.)?beit\.|(?<!layers\.\d\.)blocks\.\d+\.attn\.relative_position_bias_table$",
        None,
        "BEiT",
    ),
    (r"patch_embed\.backbone\.|embeddings\.patch_embeddings\.backbone\.", None, "hybrid ViT"),
    (r"blocks_token_only\.", None, "CaiT"),
    # timm keeps the scales of layers so in models that turn queries and keys by their places.
    (r"(^|\.)blocks\.\d+\.gamma_1$", r"(^|\.)pos_embed$", _ROTARY),
    (
        r"(^|\.)(stages\.\d+\.|layer1\.0\.|features\.0\.0\.)",
        # A Swin of mmdetection and mmsegmentation, and one of torchvision.
        r"stages\.\d+\.(blocks\.\d+\.(attn\.w_msa|ffn|norm[12])|downsample\.(norm|reduction))\."
        r"|features\.\d+\.\d+\.attn\.relative_position_bias_table$",
        "convolutional network",
    ),
]
_REGISTERS = re.compile(r"(^|\.)(reg_token|register_tokens)$")
# timm's names of models whose weights have the names and shapes of others.
_NAMED = re.compile(
    r"(^|_)(rpn|rope|pe|dinov3|relpos|srelpos|swinv2|aimv2|naver|hybrid|radio|lingbot|sapiens2|r\d+)(_|$)"
    r"|^(eva|beit|swinv2|cait|xcit|samvit|aimv2|mobilevit|maxvit|hiera|resnet|convnext)"
)


def find_other(state: Mapping[str, Any]) -> str | None:
    """The kind of model that some weight gives away; None where none does."""
    for has, lacks, kind in _OTHERS:
        if any(re.search(has, name) for name in state) and not (
            lacks and any(re.search(lacks, name) for name in state)
        ):
            if kind == _ROTARY and any(map(_REGISTERS.search, state)):
                return "DINOv3"
            return kind
    return "ViT with SwiGLU" if _has_packed_gates(state) else None


def is_other(architecture: str) -> bool:
    """Whether timm's name of a model, without a tag, is of another mechanism."""
    return bool(_NAMED.search(architecture))


def _has_packed_gates(state: Mapping[str, Any]) -> bool:
    """Whether an MLP's first kernel makes twice the features that its second takes."""
    for name in state:
        if re.search(r"(^|\.)blocks\.0\.mlp\.fc1\.weight$", name):
            first = np.shape(state[name])
            second = np.shape(state.get(name.replace(".fc1.", ".fc2."), ()))
            return len(first) == len(second) == 2 and first[0] == 2 * second[1]
    return False
