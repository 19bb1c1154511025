"""Files of named arrays with a checksum, which appear whole or not at all."""

import contextlib
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from maskaq_jax.storage import failures, whole_files

# Of names, kinds, shapes, values and texts.
_CHECKSUM = "crc32_of_all"
# Of names and values, as files have it that were written before there was the other.
_OLD_CHECKSUM = "crc32"


class BrokenFileError(OSError):
    """A file is not what was written."""


def write_arrays(
    path: Path, arrays: dict[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Stores named arrays with a checksum, and texts; makes the folder if it isn't there.

    The same arrays and texts are the same bytes.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = dict(metadata or {})
    # `save_file` would leave it to this user alone to read.
    content = save(arrays, metadata={**texts, _CHECKSUM: str(_checksum(arrays, texts))})
    whole_files.write_bytes(path, _in_order(content))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `write_arrays` stored.

    Raises:
      BrokenFileError: the file is truncated, or its content has changed.
    """
    with _reading(path) as file:
        texts = dict(file.metadata() or {})
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    stored = texts.pop(_CHECKSUM, None)
    if stored is None:
        stored, found = texts.get(_OLD_CHECKSUM), _old_checksum(arrays)
    else:
        found = _checksum(arrays, texts)
    if stored != str(found):
        raise BrokenFileError(f"{path} is damaged: its checksum does not fit its content")
    return arrays


def read_array(path: Path, name: str) -> np.ndarray:
    """One of the arrays that `write_arrays` stored, unchecked: the others are not read.

    Raises:
      BrokenFileError: the file is truncated.
    """
    with _reading(path) as file:
        return file.get_tensor(name)


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that `write_arrays` stored, and the checksum.

    Raises:
      BrokenFileError: the file is truncated.
    """
    with _reading(path) as file:
        return dict(file.metadata() or {})


def open_arrays(path: Path) -> Any:
    """The file, from which slices of its arrays can be read, unchecked."""
    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError:
        failures.check_opens(path)
        raise


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """Opens a file; what fails while it is read makes it a broken one.

    But for what tells of the machine: then nothing is said of the file.
    """
    try:
        with open_arrays(path) as file:
            yield file
    except (SafetensorError, OSError) as error:
        if failures.is_of_machine(error):
            raise
        raise BrokenFileError(f"{path} can't be read: {error}") from error


def _in_order(content: bytes) -> bytes:
    """A safetensors file whose texts are in the order of their names: it writes them in any."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    ordered += b" " * (-len(ordered) % 8)
    return len(ordered).to_bytes(8, "little") + ordered + content[8 + length :]


def _checksum(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> int:
    described = [(name, str(arrays[name].dtype), arrays[name].shape) for name in sorted(arrays)]
    whole = json.dumps([described, sorted(texts.items())])
    return zlib.crc32(whole.encode(), _old_checksum(arrays))


def _old_checksum(arrays: Mapping[str, np.ndarray]) -> int:
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(arrays[name].reshape(-1).view(np.uint8).data, value)
    return value
