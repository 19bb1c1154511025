"""Files of weights -> arrays by name, whatever wrote them: PyTorch, safetensors, NumPy, Flax.

Files are untrusted: nothing is unpickled but tensors, and no array is larger than its file says.
"""

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from maskaq_jax.storage import failures, notes, paths
from maskaq_jax.storage.notes import Tell
from maskaq_jax.torch_import import prefixes

State = dict[str, np.ndarray]

INDEX = ".index.json"
# What a folder of weights, or a repository of the hub, calls them, in order of preference: the
# first need no PyTorch to read.
FILES = (
    *("model.safetensors", f"model.safetensors{INDEX}"),
    *("pytorch_model.bin", f"pytorch_model.bin{INDEX}"),
    "flax_model.msgpack",
)
_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")
# Under which training scripts store the weights beside other things; the first that is there.
_OF_SCRIPTS = ("model", "state_dict", "params", "target")
_KEYS_SHOWN = 8
# How weights are saved so that they can be read.
_ALONE = "torch.save(model.state_dict(), 'weights.pth')"
# A kernel's name in a packed file of `maskaq_jax.export`.
_OF_PACKED = re.compile(r"^params/.*/kernel\.codes$")
# NumPy's archives hold weights about as large as they are; what is far smaller hides something.
_MOST_COMPRESSED, _SMALL = 100, 64 * 2**20


class Weights(NamedTuple):
    """What a file holds.

    Attributes:
      state: arrays by name, the levels of nested ones joined by dots or, of Flax, by slashes.
      is_flax: whether names and layouts are Flax's.
    """

    state: State
    is_flax: bool = False


def find_file(path: Path) -> Path:
    """The file of weights that a path means, which may be a folder with one.

    Raises:
      FileNotFoundError: there is none.
      ValueError: a folder holds several.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        told = paths.dangling_link(path) or f"no weight file {path}{_address_advice(path)}"
        raise FileNotFoundError(told)
    for name in FILES:
        if (path / name).is_file():
            return path / name
    found = _weight_files(path)
    found = [file for file in found if not _is_head(file)] or found
    if not found:
        for name in FILES:
            if dangling := paths.dangling_link(path / name):
                raise FileNotFoundError(dangling)
        raise ValueError(
            f"{path} is a folder, not a file, and holds no weights, such as {FILES[0]}"
        )
    if len(found) > 1:
        named = notes.some([file.name for file in found])
        raise ValueError(f"{path} is a folder with several files of weights: name one of {named}")
    return found[0]


def find_heads(file: Path) -> list[Path]:
    """Files beside a backbone's that are called heads, `dinov2_vits14_ade20k_linear_head.pth`."""
    return [other for other in _weight_files(file.parent) if _is_head(other) and other != file]


def _weight_files(folder: Path) -> list[Path]:
    endings = (".safetensors", ".npz", ".msgpack", *_PICKLES)
    return sorted(file for file in folder.iterdir() if _ending(file) in endings and file.is_file())


def _ending(file: Path) -> str:
    return file.suffix.lower()


def _is_head(file: Path) -> bool:
    return file.stem.endswith("_head")


def read(path: Path, weights_key: str, tell: Tell) -> Weights:
    """Reads a file of weights.

    Args:
      path: of `find_file`.
      weights_key: under which key, or below which prefix of names, the weights are; empty where
        there are no others.
      tell: is told what was taken where there was a choice.

    Raises:
      ValueError: it is no file of weights, or holds several.
      OSError: it can't be opened.
    """
    failures.check_opens(path)
    if what := failures.what_it_is(path):
        raise ValueError(f"{path} can't be read: {what}")
    if path.name.endswith(INDEX):
        return Weights(_below(path, _read_shards(path), weights_key))
    if _ending(path) == ".safetensors":
        return Weights(_below(path, _read_safetensors(path), weights_key))
    if _ending(path) == ".npz":
        return Weights(_below(path, _read_archive(path), weights_key, "/"), is_flax=True)
    if _ending(path) == ".msgpack":
        content = _read_msgpack(path)
        content = _take(path, content, weights_key) if weights_key else _choose_tree(content)
        return Weights(_flatten(path, content, "/"), is_flax=True)
    if _ending(path) in _PICKLES:
        return Weights(_read_pickle(path, weights_key, tell))
    raise ValueError(
        f"{path}: expected a weight file ending in .safetensors, .pth, .pt or .bin, or in .npz or "
        ".msgpack, which JAX writes"
    )


def _address_advice(path: Path) -> str:
    advice = paths.hub_address(str(path))
    return f": {advice}" if advice else ""


def _read_safetensors(path: Path) -> State:
    try:
        state: State = load_file(path)
    except AttributeError as error:  # a number format's name, which numpy lacks
        raise ValueError(
            f"{path} stores numbers in a format that can't be read ({error.name}): store them "
            "as float32"
        ) from error
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    if any(_OF_PACKED.search(name) for name in state):
        raise ValueError(
            f"{path} holds integers that maskaq_jax.export has packed, not weights to quantize: "
            "maskaq_jax.export.load_packed reads it"
        )
    return state


def _read_shards(path: Path) -> State:
    """All files that an index lists, which lie beside it."""
    try:
        files = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable index of weight files: {error}") from error
    state: State = {}
    for name in sorted(files, key=str):
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"{path} lists {name!r}, which is no file beside it")
        shard = path.parent / name
        if not shard.is_file():
            raise FileNotFoundError(f"no weight file {shard}, which {path.name} lists")
        failures.check_opens(shard)
        if what := failures.what_it_is(shard):
            raise ValueError(f"{shard} can't be read: {what}")
        state |= (
            _read_safetensors(shard) if _ending(shard) == ".safetensors" else _read_pickle(shard)
        )
    return state


def _read_archive(path: Path) -> State:
    """NumPy's archive of arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _SMALL + _MOST_COMPRESSED * path.stat().st_size:
            raise ValueError(f"it unpacks to {size} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _check_array(arrays[name]) for name in arrays.files}
    except Exception as error:  # whatever decoders of damaged files raise
        if failures.is_of_machine(error) and not isinstance(error, MemoryError):
            raise
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is not a readable .npz file of arrays: {reason}") from error


def _check_array(array: np.ndarray) -> np.ndarray:
    """An array of numbers; NumPy stores bfloat16, which it doesn't know, as two bytes."""
    if array.dtype == np.dtype("V2"):
        return array.view(ml_dtypes.bfloat16)
    if array.dtype.kind not in "fiub" and array.dtype != ml_dtypes.bfloat16:
        raise ValueError(f"it holds {array.dtype}, no numbers")
    return array


def _read_msgpack(path: Path) -> Any:
    from flax import serialization

    try:
        return serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # whatever decoders of damaged files raise
        if failures.is_of_machine(error) and not isinstance(error, MemoryError):
            raise
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is not a readable .msgpack file of Flax: {reason}") from error


def _flatten(path: Path, content: Any, separator: str, prefix: str = "") -> State:
    """A nested dict of arrays, its keys joined."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected a dict of arrays, got a {type(content).__name__}")
    state: State = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            state |= _flatten(path, value, separator, name + separator)
        elif isinstance(value, np.ndarray | np.generic):
            try:
                state[name] = _check_array(np.asarray(value))
            except ValueError as error:
                raise ValueError(f"{path}: {name}: {error}") from error
        else:
            raise ValueError(f"{path}: expected arrays, got {value!r:.50} under {name}")
    return state


def _is_torch_script(path: Path) -> bool:
    """Whether an archive holds a program beside its tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(re.search(r"^[^/]*/(code/|constants\.pkl$)", n) for n in archive.namelist())
    except Exception as error:  # whatever decoders of damaged files raise; PyTorch tells of these
        if failures.is_of_machine(error) and not isinstance(error, MemoryError):
            raise
        return False


def _read_pickle(path: Path, weights_key: str = "", tell: Tell = notes.log) -> State:
    if _is_torch_script(path):
        raise ValueError(
            f"{path} is a TorchScript archive, a program beside its weights, which is not run: "
            f"save the weights alone, {_ALONE.replace('model.', 'torch.jit.load(path).')}"
        )
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
            f"{path} is {asks}: it is not read, since more than tensors could run code: where it "
            f"was trained, save the weights alone, {_ALONE}"
        ) from error
    except Exception as error:  # torch raises many kinds for a file that is not weights
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is not a readable weight file: {reason}") from error
    is_whole = isinstance(content, dict) and content and all(map(torch.is_tensor, content.values()))
    if is_whole:
        content = _below(path, content, weights_key)
    else:
        content = _choose(path, content, weights_key, tell)
    is_state = all(
        isinstance(name, str) and torch.is_tensor(value) for name, value in content.items()
    )
    if not is_state:
        raise ValueError(f"{path}: expected a state dict of tensors")
    try:
        return {name: _to_numpy(tensor.detach()) for name, tensor in content.items()}
    except (RuntimeError, TypeError) as error:  # sparse, quantized, or on no device
        raise ValueError(f"{path}: expected dense tensors of numbers: {error}") from error


def _to_numpy(tensor: Any) -> np.ndarray:
    """A tensor of PyTorch's; NumPy doesn't know all of its kinds of real numbers."""
    array: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array


def _choose(path: Path, content: Any, weights_key: str, tell: Tell) -> dict[str, Any]:
    """The state dict among what training scripts store together.

    Of several, that under the usual keys; without these it has to be named.
    """
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected a state dict of tensors, got a {type(content).__name__}"
        )
    if weights_key:
        return _take(path, content, weights_key)
    if any(map(_is_array, content.values())):
        return content
    states = _states(content)
    for key in _OF_SCRIPTS:
        if isinstance(content.get(key), dict):
            others = [repr(name) for name in states if not f"{name}.".startswith(f"{key}.")]
            if others:
                tell(
                    f"{path} holds more than the weights under {key!r}, which are taken: "
                    f"config.model.weights_key can name {notes.some(others)} instead"
                )
            return _choose(path, content[key], "", tell)
    if states:
        raise ValueError(
            f"{path}: expected a state dict of tensors, got {len(states)} beside other things: "
            "name one by config.model.weights_key, of "
            + notes.some([repr(name) for name in states], _KEYS_SHOWN)
        )
    keys = notes.some([repr(key) for key in content], _KEYS_SHOWN) or "nothing"
    raise ValueError(f"{path}: expected a state dict of tensors, got {keys}")


def _choose_tree(content: Any) -> Any:
    """The parameters among what Flax's training states hold."""
    for key in _OF_SCRIPTS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return _choose_tree(content[key])
    return content


def _states(content: dict[Any, Any], depth: int = 3) -> list[str]:
    """Keys, joined by dots, of the dicts with arrays by name: an optimiser's go by numbers."""
    found = []
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, dict):
            continue
        if any(isinstance(name, str) and _is_array(value[name]) for name in value):
            found.append(key)
        elif depth:
            found += [f"{key}.{name}" for name in _states(value, depth - 1)]
    return found


def _has(names: Iterable[Any], weights_key: str) -> bool:
    """Whether a key is among names, or some are below it."""
    return any(f"{name}.".startswith(f"{weights_key}.") for name in names)


def _take(path: Path, content: Any, weights_key: str) -> dict[str, Any]:
    """What is under a key, which may be a path of keys with dots between them."""
    if isinstance(content, dict):
        if isinstance(found := content.get(weights_key), dict):
            models = prefixes.of_models(name for name in found if isinstance(name, str))
            is_key_of_one = len(models) > 1 and _has(models, weights_key)
            return _below(path, found, weights_key) if is_key_of_one else found
        for key, value in content.items():
            if weights_key.startswith(f"{key}.") and isinstance(value, dict):
                return _take(path, value, weights_key.removeprefix(f"{key}."))
        if any(str(name).startswith(f"{weights_key}.") for name in content):
            return _below(path, content, weights_key)
        for key in _OF_SCRIPTS:  # where a script keeps all its weights; messages name no such key
            inner = content.get(key)
            if isinstance(inner, dict) and _has(inner, weights_key):
                return _take(path, inner, weights_key)
    keys = (
        notes.some([repr(key) for key in content], _KEYS_SHOWN)
        if isinstance(content, dict)
        else "none"
    )
    raise ValueError(
        f"{path} has nothing under config.model.weights_key {weights_key!r}; its keys are {keys}"
    )


def _below(path: Path, state: dict[str, Any], weights_key: str, separator: str = ".") -> Any:
    """The arrays whose names stand below a prefix, without it."""
    if not weights_key:
        return state
    prefix = re.sub(r"[./]+$", "", weights_key) + separator
    below = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    if not below:
        starts = sorted({name.split(separator)[0] for name in state})
        raise ValueError(
            f"{path} has no names below config.model.weights_key {weights_key!r}; they start with "
            f"{notes.some(starts, _KEYS_SHOWN)}"
        )
    return below


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") or hasattr(value, "detach")
