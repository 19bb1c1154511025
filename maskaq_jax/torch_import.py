"""PyTorch weights under timm's names and layouts <-> our parameter tree.

Our modules carry timm's names, so the mapping is mechanical: `blocks.0.attn.qkv.weight`, (out, in)
is `blocks_0/attn/qkv/kernel`, (in, out). Weight files are untrusted: nothing is unpickled but
tensors.
"""

import math
import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file

from maskaq_jax import failures, hub, torch_architecture, torch_names
from maskaq_jax.models import Model

_SHOWN = 3  # names listed of each kind of mismatch


def load_torch_weights(path: str | os.PathLike[str], model: Model) -> dict[str, Any]:
    """Reads PyTorch weights into the `params` of a model.

    Names may be timm's, those of the original DeiT and Swin files, or of Hugging Face transformers'
    ViT, DeiT, Swin and Dinov2. Position embeddings of another image size are resampled, and a
    classifier is left out where the model has none.

    Args:
      path: a `.safetensors` file; or `.pth`, `.pt`, `.bin`, which need PyTorch installed and are
        read with `weights_only=True`; or `hf://organisation/name[@revision]`, which `hub` fetches.
      model: a model of `models.create_model`, quantized or not.

    Returns:
      The parameter tree, float32.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a weight file, or its names, shapes or values don't fit the model.
    """
    source = str(path)
    file = hub.fetch(source) if source.startswith(hub.SCHEME) else Path(path)
    return from_torch_state(_read_state(file), model, source)


def from_torch_state(
    state: dict[str, np.ndarray], model: Model, source: str = "state dict"
) -> dict[str, Any]:
    """Converts a state dict of arrays in PyTorch's layouts; see `load_torch_weights`."""
    state = torch_names.to_timm(state)
    if model.num_classes == 0:
        state = {name: state[name] for name in state if not re.match(r"head(_dist)?\.", name)}
    expected = traverse_util.flatten_dict(_parameter_shapes(model))
    if ("pos_embed",) in expected and "pos_embed" in state:
        length = expected[("pos_embed",)].shape[1]
        state["pos_embed"] = _resampled(state["pos_embed"], length, model.num_prefix_tokens)
    names = {_torch_name(path): path for path in expected}
    problems = []
    for kind, found in (
        ("missing", sorted(names.keys() - state.keys())),
        ("unexpected", sorted(state.keys() - names.keys())),
    ):
        if found:
            problems.append(f"{len(found)} {kind}: {_some(found)}")
    params = {}
    misshapen, not_finite = [], []
    for name in sorted(names.keys() & state.keys()):
        path = names[name]
        value = _from_torch_layout(path, np.asarray(state[name], np.float32))
        if value.shape != expected[path].shape:
            wanted = _to_torch_layout(path, np.empty(expected[path].shape)).shape
            misshapen.append(f"{name} is {state[name].shape}, expected {wanted}")
        elif not np.isfinite(value).all():
            not_finite.append(name)
        params[path] = value
    if misshapen:
        problems.append(f"{len(misshapen)} of another shape: {_some(misshapen)}")
    if not_finite:
        problems.append(f"{len(not_finite)} with NaN or infinite values: {_some(not_finite)}")
    if problems:
        likely = _likely_model(state, model)
        raise ValueError(f"{source} does not fit the model: {'; '.join(problems)}{likely}")
    return traverse_util.unflatten_dict(params)


def to_torch_state(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_torch_state`: our parameters under timm's names and layouts."""
    return {
        _torch_name(path): np.ascontiguousarray(_to_torch_layout(path, np.asarray(value)))
        for path, value in traverse_util.flatten_dict(params).items()
    }


def _read_state(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"no weight file {path}")
    if path.suffix == ".safetensors":
        try:
            failures.check_opens(path)
            return load_file(path)
        except AttributeError as error:  # a number format's name, which numpy lacks
            raise ValueError(
                f"{path} stores numbers in a format that can't be read ({error.name}): store them "
                "as float32"
            ) from error
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if path.suffix in (".pth", ".pt", ".bin"):
        return _read_pickled_state(path)
    raise ValueError(f"{path}: expected a weight file ending in .safetensors, .pth, .pt or .bin")


def _read_pickled_state(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch  # Only this format needs it.
    except ImportError as error:
        raise ValueError(f"{path}: reading this format needs PyTorch: pip install torch") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own words advise to load it all the same.
        found = re.search(r"(?:GLOBAL|global) (\S+)", str(error))
        asks = (
            f"no file of tensors alone, it asks for {found[1]}" if found else "no file of tensors"
        )
        raise ValueError(
            f"{path} is {asks}: it is not read, since more than tensors could run code"
        ) from error
    except Exception as error:  # torch raises many kinds for a file that is not weights
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is not a readable weight file: {reason}") from error
    for key in ("model", "state_dict"):  # as training scripts store it beside other things
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    is_state = isinstance(content, dict) and all(
        isinstance(name, str) and torch.is_tensor(value) for name, value in content.items()
    )
    if not is_state:
        raise ValueError(f"{path}: expected a state dict of tensors")
    try:
        return {name: tensor.detach().float().numpy() for name, tensor in content.items()}
    except (RuntimeError, TypeError) as error:  # sparse, quantized, or on no device
        raise ValueError(f"{path}: expected dense tensors of numbers: {error}") from error


def _likely_model(state: dict[str, np.ndarray], model: Model) -> str:
    found = torch_architecture.of_state(state)
    if found is None or found == torch_architecture.of_model(model):
        return ""
    return f". The weights look like {torch_architecture.describe(found)}"


def _parameter_shapes(model: Model) -> dict[str, Any]:
    image = jax.ShapeDtypeStruct((1, *model.input_shape), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


def _resampled(embedding: np.ndarray, length: int, num_prefix_tokens: int) -> np.ndarray:
    """Position embeddings [1, tokens, C] for another number of patches; both grids are square."""
    if embedding.ndim != 3:
        return embedding
    old, new = (math.isqrt(max(0, n - num_prefix_tokens)) for n in (embedding.shape[1], length))
    if embedding.shape[1] == length or old**2 + num_prefix_tokens != embedding.shape[1]:
        return embedding
    channels = embedding.shape[-1]
    prefix, patches = np.split(np.asarray(embedding, np.float32), [num_prefix_tokens], axis=1)
    grid = patches.reshape(1, old, old, channels)
    # Keys' cubic, smoothed where the grid shrinks, as timm resamples them.
    grid = jax.image.resize(grid, (1, new, new, channels), "cubic", antialias=True)
    return np.concatenate([prefix, np.asarray(grid).reshape(1, new * new, channels)], axis=1)


_LEAF_NAMES = {"kernel": "weight", "scale": "weight"}


def _torch_name(path: tuple[str, ...]) -> str:
    *modules, leaf = path
    modules = [re.sub(r"_(\d+)$", r".\1", module) for module in modules]
    return ".".join([*modules, _LEAF_NAMES.get(leaf, leaf)])


def _from_torch_layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    return np.transpose(value, (2, 3, 1, 0) if value.ndim == 4 else None)


def _to_torch_layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    return np.transpose(value, (3, 2, 0, 1) if value.ndim == 4 else None)


def _some(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
