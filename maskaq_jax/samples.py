"""The store of synthetic images: checksummed files of consecutive images, in a folder a refresh.

Each host writes the images its own devices made, and reads those it needs, a few at a time: memory
does not grow with their number.
"""

import contextlib
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from maskaq_jax import failures, files

_NAME = re.compile(r"images_(\d{8})_(\d{8})\.safetensors")
_CHECKSUM = "crc32"


class BrokenFileError(OSError):
    """A file of the store is not what was written."""


class Shard(NamedTuple):
    """A file of the images from number `first` to before `stop`."""

    first: int
    stop: int
    path: Path


def refresh_folder(directory: Path, refresh: int) -> Path:
    """Where the images of a refresh are stored."""
    return directory / f"refresh_{refresh:03d}"


def list_refreshes(directory: Path) -> list[Path]:
    """The folders of all refreshes, in order; none if there is no store."""
    return [directory / name for name in _list(directory) if name.startswith("refresh_")]


def shard_path(folder: Path, first: int, stop: int) -> Path:
    """The file of the images from number `first` to before `stop`."""
    return folder / f"images_{first:08d}_{stop:08d}.safetensors"


def list_shards(folder: Path) -> list[Shard]:
    """The folder's finished shards, in the order of their images."""
    names = map(_NAME.fullmatch, _list(folder))
    return [Shard(int(name[1]), int(name[2]), folder / name[0]) for name in names if name]


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Stores named arrays with a checksum; the file appears whole or not at all."""
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    # `save_file` would leave it to this user alone to read.
    files.write_bytes(path, save(arrays, metadata={_CHECKSUM: str(_checksum(arrays))}))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `write_arrays` stored.

    Raises:
      BrokenFileError: the file is truncated, or its content has changed.
    """
    with _open(path) as file:
        stored = (file.metadata() or {}).get(_CHECKSUM)
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if stored != str(_checksum(arrays)):
        raise BrokenFileError(f"{path} is damaged: its checksum does not fit its content")
    return arrays


def read_array(path: Path, name: str) -> np.ndarray:
    """One of the arrays that `write_arrays` stored, unchecked: the others are not read.

    Raises:
      BrokenFileError: the file is truncated.
    """
    with _open(path) as file:
        return file.get_tensor(name)


def missing_batches(
    folder: Path, batch_size: int, num_batches: int, on_broken: Callable[[str], None]
) -> list[int]:
    """Numbers of the batches of which not every image is stored.

    Args:
      folder: of a refresh.
      batch_size: images a batch.
      num_batches: batches there should be.
      on_broken: is told of every damaged file, which then counts as missing.
    """
    stored = np.zeros(batch_size * num_batches, bool)
    for first, stop, path in list_shards(folder):
        try:
            read_arrays(path)
        except BrokenFileError as error:
            on_broken(str(error))
        else:
            stored[first:stop] = True
    return np.flatnonzero(~stored.reshape(num_batches, batch_size).all(axis=1)).tolist()


def remove_batch(folder: Path, first: int, stop: int) -> None:
    """Removes files that hold any of these images, before they are made again."""
    for shard in list_shards(folder):
        if shard.first < stop and first < shard.stop:
            shard.path.unlink()


def open_images(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns `read(indices)`, [B] int to [B, height, width, channels] float32.

    It opens files as it needs them.
    """
    shards = list_shards(folder)
    firsts = np.asarray([shard.first for shard in shards])

    def read(indices: np.ndarray) -> np.ndarray:
        numbers = np.searchsorted(firsts, indices, side="right") - 1
        images: dict[int, np.ndarray] = {}
        for number in np.unique(numbers):
            first, _, path = shards[number]
            with _safe_open(path) as file:
                stored = file.get_slice("images")
                for place in np.flatnonzero(numbers == number).tolist():
                    row = int(indices[place]) - first
                    images[place] = stored[row : row + 1]
        return np.concatenate([images[place] for place in range(len(indices))])

    return read


def _list(folder: Path) -> list[str]:
    """Names in a folder, in order; none where there is no folder.

    `Path.glob` would say nothing either where the machine fails.
    """
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _safe_open(path: Path) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError:
        failures.check_opens(path)
        raise


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Opens a file of the store; what fails while it is read makes it a broken one.

    But for what tells of the machine: then nothing is said of the file.
    """
    try:
        with _safe_open(path) as file:
            yield file
    except (SafetensorError, OSError) as error:
        if failures.is_of_machine(error):
            raise
        raise BrokenFileError(f"{path} can't be read: {error}") from error


def _checksum(arrays: dict[str, np.ndarray]) -> int:
    value = 0
    for name in sorted(arrays):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(arrays[name].reshape(-1).view(np.uint8).data, value)
    return value
