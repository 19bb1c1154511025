"""The store of a run's synthetic images: which there are, and which are yet to be made.

Each refresh has a folder of checksummed files of consecutive images. A host writes the images that
its own devices made, and reads those it needs, a few at a time: memory does not grow with their
number.
"""

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flax.serialization
import jax
import numpy as np
from flax import traverse_util

from maskaq_jax.data.batches import ReadImages
from maskaq_jax.devices import parallel
from maskaq_jax.devices.parallel import HostRows
from maskaq_jax.storage import checked_arrays
from maskaq_jax.synthesis.loop import BatchProgress, SavedProgress
from maskaq_jax.synthesis.step import SynthesisState

_NAME = re.compile(r"images_(\d{8})_(\d{8})\.safetensors")
# Names of arrays: how often an image was drawn again, and what an unfinished batch has.
_REDRAWS = "redraws"
_INDICES, _POSITION, _STATE = "indices", "position", "state/"


class Shard(NamedTuple):
    """A file of the images from number `first` to before `stop`."""

    first: int
    stop: int
    path: Path


class Store:
    """Synthetic images of every refresh, made in batches.

    Attributes:
      num_batches: batches of a refresh.
      batch_size: images of each.
    """

    def __init__(
        self, directory: Path, num_batches: int, batch_size: int, warn: Callable[[str], None]
    ):
        """Opens a store, which may be empty.

        Args:
          directory: of the store; it is made when the first images are written.
          num_batches: batches of a refresh.
          batch_size: images of each.
          warn: is told of every damaged file, which then counts as missing.
        """
        self.num_batches, self.batch_size = num_batches, batch_size
        self._directory, self._warn = directory, warn
        self._missing: dict[int, list[int]] = {}

    def missing(self, refresh: int) -> list[int]:
        """Numbers of a refresh's batches that are yet to be made. Every host must ask.

        The files are read, and their checksums compared, when a refresh is first asked for.
        """
        if refresh not in self._missing:
            is_missing = np.zeros(self.num_batches, bool)
            if parallel.is_main_process():
                is_missing = self._find_missing(refresh)
            self._missing[refresh] = np.flatnonzero(parallel.take_from_main(is_missing)).tolist()
        return list(self._missing[refresh])

    def rows(self, number: int, mesh: jax.sharding.Mesh) -> HostRows:
        """This host's rows of a batch."""
        first = number * self.batch_size
        return parallel.rows_of_batch(first, first + self.batch_size, mesh)

    def write(self, refresh: int, rows: HostRows, reached: BatchProgress) -> None:
        """Writes this host's images of a finished batch and their labels.

        They replace what was there. Every host must call it.
        """
        folder = self.folder(refresh)
        if parallel.is_main_process():
            _remove_images(folder, rows.first, rows.stop)
        parallel.wait_for_hosts("removed")
        if rows.valid.any():
            images = parallel.fetch(reached.state.images)[rows.valid]
            indices = rows.indices[rows.valid]
            checked_arrays.write_arrays(
                shard_path(folder, int(indices[0]), int(indices[-1]) + 1),
                {
                    "images": images,
                    "labels": reached.labels[rows.valid],
                    _REDRAWS: np.full(len(images), reached.attempt, np.int32),
                },
            )
        parallel.wait_for_hosts("written")
        self._progress_path(refresh, rows).unlink(missing_ok=True)
        self._missing.pop(refresh, None)

    def read(self, refresh: int) -> ReadImages:
        """Returns what reads a refresh's images by number; it opens files as it needs them."""
        return open_images(self.folder(refresh))

    def count_redrawn(self) -> int:
        """Images of all refreshes that had to be drawn again, as they came out not finite.

        Files of earlier refreshes that can't be read any more don't count.
        """
        count = 0
        for folder in list_refreshes(self._directory):
            for shard in list_shards(folder):
                with contextlib.suppress(OSError):
                    redraws = checked_arrays.read_array(shard.path, _REDRAWS)
                    count += int((redraws > 0).sum())
        return count

    def write_progress(self, refresh: int, rows: HostRows, reached: BatchProgress) -> None:
        """Keeps how far a batch has come, for `read_progress`."""
        state = flax.serialization.to_state_dict(parallel.fetch(reached.state))
        named = traverse_util.flatten_dict(state, sep="/")
        arrays = {f"{_STATE}{name}": array for name, array in named.items()}
        arrays[_INDICES] = rows.indices
        arrays[_POSITION] = np.asarray([reached.attempt, reached.step])
        checked_arrays.write_arrays(self._progress_path(refresh, rows), arrays)

    def read_progress(
        self, refresh: int, rows: HostRows, template: SynthesisState
    ) -> SavedProgress | None:
        """Where a stopped synthesis of this batch stood; None unless all hosts have the same step.

        Every host must call it.

        Args:
          refresh: number of the refresh.
          rows: this host's rows of the batch.
          template: shapes of the state of these rows.
        """
        path = self._progress_path(refresh, rows)
        saved: SavedProgress | None = None
        if path.is_file():
            try:
                saved = _to_progress(checked_arrays.read_arrays(path), rows, template)
            except (checked_arrays.BrokenFileError, ValueError) as error:
                self._warn(f"{error}; its images are made from the start")
        position = np.asarray([saved.attempt, saved.step] if saved else [0, 0])
        # Every host must ask, whatever it has found itself.
        is_common = np.array_equal(parallel.take_from_main(position), position)
        if parallel.any_host(saved is None or not is_common):
            return None
        return saved

    def folder(self, refresh: int) -> Path:
        """Where the images of a refresh are."""
        return refresh_folder(self._directory, refresh)

    def _find_missing(self, refresh: int) -> np.ndarray:
        """[batches] bool."""
        is_stored = np.zeros(self.batch_size * self.num_batches, bool)
        for first, stop, path in list_shards(self.folder(refresh)):
            try:
                checked_arrays.read_arrays(path)
            except checked_arrays.BrokenFileError as error:
                self._warn(str(error))
            else:
                is_stored[first:stop] = True
        by_batch = is_stored.reshape(self.num_batches, self.batch_size)
        return np.logical_not(by_batch.all(axis=1))

    def _progress_path(self, refresh: int, rows: HostRows) -> Path:
        """Where this host keeps how far it has come with a batch."""
        name = f"unfinished_{rows.first:08d}_{jax.process_index()}.safetensors"
        return self.folder(refresh) / name


def refresh_folder(directory: Path, refresh: int) -> Path:
    """Where a store has the images of a refresh."""
    return directory / f"refresh_{refresh:03d}"


def list_refreshes(directory: Path) -> list[Path]:
    """The folders of all refreshes of a store, in order; none if there is no store."""
    return [directory / name for name in _list(directory) if name.startswith("refresh_")]


def shard_path(folder: Path, first: int, stop: int) -> Path:
    """The file of the images from number `first` to before `stop`."""
    return folder / f"images_{first:08d}_{stop:08d}.safetensors"


def list_shards(folder: Path) -> list[Shard]:
    """A refresh's finished shards, in the order of their images."""
    names = map(_NAME.fullmatch, _list(folder))
    return [Shard(int(name[1]), int(name[2]), folder / name[0]) for name in names if name]


def open_images(folder: Path) -> ReadImages:
    """Returns what reads the images of a refresh's folder by number.

    It opens files as it needs them.
    """
    shards = list_shards(folder)
    firsts = np.asarray([shard.first for shard in shards])

    def read_images(indices: np.ndarray) -> np.ndarray:
        numbers = np.searchsorted(firsts, indices, side="right") - 1
        images: dict[int, np.ndarray] = {}
        for number in np.unique(numbers):
            first, _, path = shards[number]
            with checked_arrays.open_arrays(path) as file:
                stored = file.get_slice("images")
                for place in np.flatnonzero(numbers == number).tolist():
                    row = int(indices[place]) - first
                    images[place] = stored[row : row + 1]
        return np.concatenate([images[place] for place in range(len(indices))])

    return read_images


def read_newest_refresh(directory: Path, indices: np.ndarray) -> np.ndarray:
    """[B, height, width, channels] images of these numbers, of a store's newest refresh that has
    them all.

    Raises:
      FileNotFoundError: no refresh has them.
      OSError: a file can't be read.
    """
    for folder in reversed(list_refreshes(directory)):
        shards = list_shards(folder)
        if all(any(shard.first <= i < shard.stop for shard in shards) for i in indices):
            return open_images(folder)(indices)
    raise FileNotFoundError(f"no refresh in {directory} has {len(indices)} images")


def _to_progress(
    arrays: dict[str, np.ndarray], rows: HostRows, template: SynthesisState
) -> SavedProgress | None:
    """What the arrays of `write_progress` tell; None where they are of other rows.

    Raises:
      ValueError: they are not of this version's state.
    """
    if not np.array_equal(arrays[_INDICES], rows.indices):
        return None
    named = traverse_util.flatten_dict(
        flax.serialization.to_state_dict(template), keep_empty_nodes=True, sep="/"
    )
    for name, leaf in named.items():
        if leaf is traverse_util.empty_node:
            continue
        found = arrays.get(f"{_STATE}{name}")
        if found is None or found.shape != leaf.shape:
            raise ValueError("an unfinished batch was left by another version of this program")
        named[name] = found
    state = flax.serialization.from_state_dict(
        template, traverse_util.unflatten_dict(named, sep="/")
    )
    attempt, step = arrays[_POSITION]
    return SavedProgress(int(attempt), int(step), state)


def _remove_images(folder: Path, first: int, stop: int) -> None:
    """Removes files that hold any of these images, before they are written again."""
    for shard in list_shards(folder):
        if shard.first < stop and first < shard.stop:
            shard.path.unlink()


def _list(folder: Path) -> list[str]:
    """Names in a folder, in order; none where there is no folder.

    `Path.glob` would say nothing either where the machine fails.
    """
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
