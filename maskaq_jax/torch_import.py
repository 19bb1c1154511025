"""PyTorch weights under timm's names and layouts <-> our parameter tree.

Our modules carry timm's names, so the mapping is mechanical: `blocks.0.attn.qkv.weight`, (out, in)
is `blocks_0/attn/qkv/kernel`, (in, out). Weight files are untrusted: nothing is unpickled but
tensors.
"""

import os
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file

from maskaq_jax.models import Model

_SHOWN = 3  # names listed of each kind of mismatch


def load_torch_weights(path: str | os.PathLike[str], model: Model) -> dict[str, Any]:
    """Reads a timm state dict into the `params` of a model.

    Args:
      path: a `.safetensors` file; or `.pth`, `.pt`, `.bin`, which need PyTorch installed and are
        read with `weights_only=True`.
      model: a model of `models.create_model`, quantized or not.

    Returns:
      The parameter tree, float32.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a weight file, or its names, shapes or values don't fit the model.
    """
    return from_torch_state(_read_state(Path(path)), model, source=str(path))


def from_torch_state(
    state: dict[str, np.ndarray], model: Model, source: str = "state dict"
) -> dict[str, Any]:
    """Converts a timm state dict; see `load_torch_weights`."""
    expected = traverse_util.flatten_dict(_parameter_shapes(model))
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
        raise ValueError(f"{source} does not fit the model: {'; '.join(problems)}")
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
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if path.suffix in (".pth", ".pt", ".bin"):
        return _read_pickled_state(path)
    raise ValueError(f"{path}: expected a weight file ending in .safetensors, .pth, .pt or .bin")


def _read_pickled_state(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch  # Only this format needs it.
    except ImportError as error:
        raise ValueError(
            f"{path}: reading this format needs PyTorch: pip install 'maskaq_jax[torch]'"
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not weights
        raise ValueError(f"{path} is not a readable weight file: {error}") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise ValueError(f"{path}: expected a state dict of tensors")
    return {name: tensor.float().numpy() for name, tensor in state.items()}


def _parameter_shapes(model: Model) -> dict[str, Any]:
    image = jax.ShapeDtypeStruct((1, *model.input_shape), np.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)["params"]


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
