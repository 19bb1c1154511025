"""Models that look like a ViT or a Swin and compute something else, known by names of weights."""

import re
from collections.abc import Iterable

# In order: the first that matches names the model.
_OTHERS = [
    (r"cpb_mlp\.|continuous_position_bias_mlp\.|^(.*\.)?swinv2\.", "Swin V2"),
    (r"blocks\.\d+\.mlp\.fc1_[gx]\.|^(.*\.)?rope\.|\.rope\.freqs", "EVA"),
    (r"\.mlp\.(w12|w1|w2|w3|weights_in|weights_out|gate_proj)\.", "ViT with SwiGLU"),
    (r"storage_tokens|rope_embed", "DINOv3"),
    (r"blocks\.\d+\.attn\.(q_bias|v_bias)$", "BEiT or EVA"),
    (r"^(.*\.)?beit\.|blocks\.\d+\.attn\.relative_position_bias_table$", "BEiT"),
    (r"patch_embed\.backbone\.|embeddings\.patch_embeddings\.backbone\.", "hybrid ViT"),
    (r"blocks_token_only\.", "CaiT"),
    (r"(^|\.)(stages\.\d+\.|layer1\.0\.|features\.0\.0\.)", "convolutional network"),
]
# A Swin's tables are its own, in stages; which mmdetection and mmsegmentation call so.
_OF_SWIN = {
    "BEiT": re.compile(r"layers\.\d+\.blocks\.\d+\."),
    "convolutional network": re.compile(
        r"stages\.\d+\.(blocks\.\d+\.(attn\.w_msa|ffn|norm[12])|downsample\.(norm|reduction))\."
    ),
}


def find_other(names: Iterable[str]) -> str | None:
    """The kind of model that some name gives away; None where none does."""
    names = list(names)
    for pattern, kind in _OTHERS:
        for name in names:
            if re.search(pattern, name) and not (kind in _OF_SWIN and _OF_SWIN[kind].search(name)):
                return kind
    return None
