"""Parameters of Flax -> a state dict of PyTorch: names, layouts, and what the shapes tell.

Known are the ViTs of google-research/vision_transformer and big_vision (`.npz`), whose names become
timm's, and of Hugging Face transformers (`flax_model.msgpack`), whose names become those of its
PyTorch models.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from maskaq_jax.storage.notes import Tell

State = dict[str, np.ndarray]

# What training states put around the parameters, and towers for images beside those for text.
_AROUND = re.compile(r"^(?:(?:opt|optimizer|model|ema)/)?(?:target|params)/(?:params/)?")
_MODULES = [
    (r"^embedding/", "patch_embed/proj/"),
    (r"^cls$", "cls_token"),
    (r"^(?:Transformer/posembed_input/)?pos_embedding$", "pos_embed"),
    (r"^Transformer/encoderblock_(\d+)/", r"blocks/\1/"),
    (r"^Transformer/encoder_norm/", "norm/"),
    (r"^MAPHead_0/probe$", "attn_pool/latent"),
    (r"^MAPHead_0/", "attn_pool/"),
    (r"(blocks/\d+)/LayerNorm_0/", r"\1/norm1/"),
    (r"(blocks/\d+)/LayerNorm_[12]/", r"\1/norm2/"),
    (r"(attn_pool)/LayerNorm_0/", r"\1/norm/"),
    (r"/MlpBlock_\d/Dense_0/", "/mlp/fc1/"),
    (r"/MlpBlock_\d/Dense_1/", "/mlp/fc2/"),
    (r"(blocks/\d+)/MultiHeadDotProductAttention_\d/", r"\1/attn/"),
    (r"(attn_pool)/MultiHeadDotProductAttention_0/", r"\1/"),
    (r"/out/", "/proj/"),
]
_JOINED = {"attn": ("query", "key", "value"), "attn_pool": ("key", "value")}


class FlaxWeights(NamedTuple):
    """What Flax's parameters say.

    Attributes:
      state: under PyTorch's names and in its layouts.
      facts: arguments of a model that these parameters show, by our names.
      has_computed_positions: whether position embeddings are not among them, but sines.
    """

    state: State
    facts: dict[str, Any]
    has_computed_positions: bool = False


def to_torch(flat: Mapping[str, np.ndarray], tell: Tell) -> FlaxWeights:
    """Renames parameters, names joined by slashes, and turns them into PyTorch's layouts.

    Args:
      flat: name -> array.
      tell: is told what is left out.
    """
    flat = {_AROUND.sub("", name): array for name, array in flat.items()}
    if any(name.startswith("img/") for name in flat):
        others = sorted({name.split("/")[0] for name in flat if not name.startswith("img/")})
        flat = {name[4:]: array for name, array in flat.items() if name.startswith("img/")}
        if others:
            tell(f"the tower for images is taken; left out are {', '.join(others)}")
    if not any(name.startswith("Transformer/") for name in flat):
        return FlaxWeights({_dotted(name): _turned(name, flat[name]) for name in flat}, {})
    flat = _unstacked(flat)
    heads = {
        array.shape[1]
        for name, array in flat.items()
        if name.endswith("/query/kernel") and array.ndim == 3
    }
    facts: dict[str, Any] = {"num_heads": heads.pop()} if len(heads) == 1 else {}
    facts["global_pool"] = _pooling(flat)
    if facts["global_pool"] == "avg":
        facts["fc_norm"] = False
    renamed = {_renamed(name): array for name, array in flat.items()}
    joined = _join(renamed)
    state = {_dotted(name): _turned(name, joined[name]) for name in joined}
    return FlaxWeights(state, facts, "pos_embed" not in state)


def sine_positions(rows: int, columns: int, channels: int) -> np.ndarray:
    """big_vision's position embeddings that are not learned, [1, rows * columns, C] float32.

    Sines and cosines of both coordinates, a quarter of the channels each, wavelengths from 2 pi to
    10 000 times that.
    """
    y, x = np.mgrid[:rows, :columns].reshape(2, -1, 1).astype(np.float64)
    quarter = channels // 4
    frequencies = 10_000.0 ** (-np.arange(quarter) / max(1, quarter - 1))[None]
    angles = [np.sin(x * frequencies), np.cos(x * frequencies)]
    angles += [np.sin(y * frequencies), np.cos(y * frequencies)]
    return np.concatenate(angles, axis=1)[None].astype(np.float32)


def _pooling(flat: Mapping[str, np.ndarray]) -> str:
    if any(name.startswith("MAPHead_0/") for name in flat):
        return "map"
    return "token" if "cls" in flat else "avg"


def _unstacked(flat: Mapping[str, np.ndarray]) -> State:
    """Blocks that were scanned over have one array each, with an axis of the blocks."""
    prefix = "Transformer/encoderblock/"
    state = {}
    for name, array in flat.items():
        if not name.startswith(prefix):
            state[name] = array
            continue
        for number, part in enumerate(array):
            state[f"Transformer/encoderblock_{number}/{name.removeprefix(prefix)}"] = part
    return state


def _renamed(name: str) -> str:
    for pattern, replacement in _MODULES:
        name = re.sub(pattern, replacement, name)
    return name


def _join(state: Mapping[str, np.ndarray]) -> State:
    """Projections by heads, [C, H, d] and [H, d, C], to matrices, those of one input to one."""
    joined = {}
    for name, array in state.items():
        match = re.fullmatch(r"(.*?)(attn|attn_pool)/(query|key|value|proj)/(kernel|bias)", name)
        if match is None:
            joined[name] = array
            continue
        place, module, part, leaf = match.groups()
        flat = _without_heads(array, part, leaf)
        if part not in _JOINED[module]:
            own = "q" if part == "query" else part
            joined[f"{place}{module}/{own}/{leaf}"] = flat
            continue
        parts = [f"{place}{module}/{each}/{leaf}" for each in _JOINED[module]]
        if part != _JOINED[module][0] or not all(each in state for each in parts):
            if not all(each in state for each in parts):
                joined[name] = array
            continue
        matrices = [_without_heads(state[each], each.split("/")[-2], leaf) for each in parts]
        whole = "qkv" if module == "attn" else "kv"
        joined[f"{place}{module}/{whole}/{leaf}"] = np.concatenate(matrices, axis=-1)
    return joined


def _without_heads(array: np.ndarray, part: str, leaf: str) -> np.ndarray:
    if leaf == "bias":
        return array.reshape(-1)
    if array.ndim != 3:
        return array
    heads_last = part != "proj"
    return array.reshape(len(array), -1) if heads_last else array.reshape(-1, array.shape[-1])


def _turned(name: str, array: np.ndarray) -> np.ndarray:
    """Kernels, [in, out] and [height, width, in, out], in PyTorch's layouts."""
    if name.rpartition("/")[2] != "kernel" or array.ndim not in (2, 4):
        return array
    return np.transpose(array, (3, 2, 0, 1) if array.ndim == 4 else None)


def _dotted(name: str) -> str:
    path, _, leaf = name.rpartition("/")
    leaf = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(leaf, leaf)
    return ".".join(filter(None, (path.replace("/", "."), leaf)))
