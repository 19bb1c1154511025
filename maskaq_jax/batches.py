"""Batches of a refresh's images: which are yet to be made, and what is kept of the others."""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from maskaq_jax import parallel, samples
from maskaq_jax.config import SYNTHESIS_METHODS, Config
from maskaq_jax.phases import SavedProgress, SynthesisProgress

# How often an image was drawn again, in its file and in the metrics.
REDRAWS = "redraws"


def num_batches(config: Config) -> int:
    """Batches a synthesis of all samples takes."""
    return math.ceil(config.samples.num_samples / batch_size(config))


def batch_size(config: Config) -> int:
    """Images made at a time; no more than are wanted."""
    return min(config.samples.batch_size, config.samples.num_samples)


def find_missing(
    config: Config, store: Path, refresh: int, on_broken: Callable[[str], None]
) -> list[int]:
    """Numbers of a refresh's batches that are yet to be made; none without synthesis.

    Every host must call it.

    Args:
      config: of the run.
      store: its samples.
      refresh: number of the refresh.
      on_broken: is told of every damaged file, which then counts as missing.
    """
    if config.method not in SYNTHESIS_METHODS:
        return []
    is_missing = np.zeros(num_batches(config), bool)
    if parallel.is_main_process():
        folder = samples.refresh_folder(store, refresh)
        missing = samples.missing_batches(
            folder, batch_size(config), num_batches(config), on_broken
        )
        is_missing[missing] = True
    return np.flatnonzero(parallel.take_from_main(is_missing)).tolist()


def write_batch(folder: Path, share: parallel.HostShare, progress: SynthesisProgress) -> None:
    """Writes this host's images of a batch and their labels, and removes what was there.

    Every host must call it.

    Args:
      folder: of the refresh.
      share: the host's part of the batch.
      progress: the finished batch.
    """
    if parallel.is_main_process():
        samples.remove_batch(folder, share.first, share.stop)
    parallel.wait_for_hosts("removed")
    if share.valid.any():
        images = parallel.fetch(progress.state.images)[share.valid]
        indices = share.indices[share.valid]
        labels = progress.labels[share.valid]
        path = samples.shard_path(folder, int(indices[0]), int(indices[-1]) + 1)
        redraws = np.full(len(images), progress.attempt, np.int32)
        samples.write_arrays(path, {"images": images, "labels": labels, REDRAWS: redraws})
    parallel.wait_for_hosts("written")


def count_redrawn(store: Path) -> int:
    """Images of all refreshes in a store that had to be drawn again, as they came out not finite.

    Files of earlier refreshes that can't be read any more don't count.
    """
    count = 0
    for folder in samples.list_refreshes(store):
        for shard in samples.list_shards(folder):
            with contextlib.suppress(OSError):
                count += int((samples.read_array(shard.path, REDRAWS) > 0).sum())
    return count


def progress_path(folder: Path, share: parallel.HostShare) -> Path:
    """Where this host keeps how far it has come with a batch."""
    return folder / f"unfinished_{share.first:08d}_{jax.process_index()}.safetensors"


def write_progress(path: Path, share: parallel.HostShare, progress: SynthesisProgress) -> None:
    """Keeps how far a batch has come, for `read_progress`."""
    arrays = {
        f"leaf_{number:03d}": leaf
        for number, leaf in enumerate(jax.tree.leaves(parallel.fetch(progress.state)))
    }
    arrays["indices"] = share.indices
    arrays["position"] = np.asarray([progress.attempt, progress.step])
    samples.write_arrays(path, arrays)


def read_progress(
    path: Path, share: parallel.HostShare, on_broken: Callable[[str], None]
) -> SavedProgress | None:
    """Where a stopped synthesis of this batch stood; None unless all hosts have the same step.

    Every host must call it.

    Args:
      path: of `write_progress`; there may be nothing.
      share: the host's part of the batch.
      on_broken: is told if the file is damaged.
    """
    arrays = {"indices": np.zeros(0), "position": np.zeros(2, np.int64)}
    if path.is_file():
        try:
            arrays = samples.read_arrays(path)
        except samples.BrokenFileError as error:
            on_broken(f"{error}; its images are made from the start")
    position = arrays.pop("position")
    is_mine = np.array_equal(arrays.pop("indices"), share.indices)
    # Every host must ask, whatever it has found itself.
    is_common = np.array_equal(parallel.take_from_main(position), position)
    if parallel.any_host(not (is_mine and is_common)):
        return None
    leaves = [arrays[name] for name in sorted(arrays)]
    return SavedProgress(int(position[0]), int(position[1]), leaves)
