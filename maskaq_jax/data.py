"""Labelled images: the embedded ones, and batches of any."""

import collections
import dataclasses
import difflib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import numpy as np

from maskaq_jax.augment import Pixels

EMBEDDED = "fashion_mnist"
EMBEDDED_SIZE = (28, 28)
EMBEDDED_SPLITS = ("test", "validation", "real")
EMBEDDED_SCHEME = "embedded:"
# Enough that reading does not wait for the model, or the model for reading.
_BATCHES_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images and their labels.

    Attributes:
      images: [N, height, width, channels] uint8, or a sequence of N such images that reads each
        when it is asked for, and may raise `BrokenImageError`.
      labels: [N] int32; -1 where unknown.
    """

    images: np.ndarray | Sequence[np.ndarray]
    labels: np.ndarray


class BrokenImageError(Exception):
    """An image that can't be read; the message names it."""


def asset_path(name: str) -> Path:
    """Where a file of `maskaq_jax/assets` lies."""
    return Path(str(resources.files("maskaq_jax.assets"))) / name


def weights_path(weights: str) -> Path:
    """A path as given, or the asset that `embedded:NAME` stands for."""
    if weights.startswith(EMBEDDED_SCHEME):
        return asset_path(f"{weights.removeprefix(EMBEDDED_SCHEME)}.safetensors")
    return Path(weights)


def missing_file(path: Path) -> str:
    """Says that there is no such file, and which one beside it has the nearest name."""
    beside = [other.name for other in path.parent.glob(f"*{path.suffix}")]
    near = difflib.get_close_matches(path.name, beside, n=1)
    return f"no file {path}" + (f": did you mean {path.parent / near[0]}?" if near else "")


def load_embedded(split: str, num_channels: int) -> Dataset:
    """Reads the embedded Fashion-MNIST images, the grey value on every channel.

    Args:
      split: 'test', 'validation' (kept out of the teacher's training) or 'real' (trained on).
      num_channels: channels the model takes.
    """
    with np.load(asset_path(f"fashion_{split}.npz"), allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    images = np.repeat(images[..., None], num_channels, axis=-1)
    return Dataset(images, labels.astype(np.int32))


def normalise(images: np.ndarray, pixels: Pixels) -> np.ndarray:
    """[..., channels] uint8 -> float32 in the model's normalised pixel space."""
    mean, std = np.asarray(pixels.mean, np.float32), np.asarray(pixels.std, np.float32)
    return (images.astype(np.float32) / 255 - mean) / std


def batches(
    dataset: Dataset,
    pixels: Pixels,
    batch_size: int,
    on_broken: Callable[[str], None] = lambda message: None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Normalised images, labels and validity in batches of one size.

    The last batch is padded. Images that are read one by one are read by several threads, some
    batches ahead; a broken one is told to `on_broken` and not valid.
    """
    for images, labels, valid in _raw_batches(dataset, batch_size, on_broken):
        yield _padded(normalise(images, pixels), labels, valid, batch_size)


def sample_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The same of images that are normalised already, [N, height, width, channels] float32."""
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        yield _padded(images[part], labels[part], np.ones(len(labels[part]), bool), batch_size)


def _padded(
    images: np.ndarray, labels: np.ndarray, valid: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    padding = size - len(labels)
    return (
        np.pad(images, [(0, padding), (0, 0), (0, 0), (0, 0)]),
        np.pad(labels, (0, padding)),
        np.pad(valid, (0, padding)),
    )


def _raw_batches(
    dataset: Dataset, batch_size: int, on_broken: Callable[[str], None]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """uint8 images, labels and validity, the last batch as short as it is."""
    starts = range(0, len(dataset.labels), batch_size)
    if isinstance(dataset.images, np.ndarray):
        for start in starts:
            labels = dataset.labels[start : start + batch_size]
            yield dataset.images[start : start + batch_size], labels, np.ones(len(labels), bool)
        return
    with ThreadPoolExecutor() as pool:
        futures = _read_ahead(pool, dataset.images, _BATCHES_AHEAD * batch_size)
        for start in starts:
            labels = dataset.labels[start : start + batch_size]
            images: list[np.ndarray | None] = []
            for future in itertools.islice(futures, len(labels)):
                try:
                    images.append(future.result())
                except BrokenImageError as error:
                    on_broken(str(error))
                    images.append(None)
            valid = np.array([image is not None for image in images])
            whole = next((image for image in images if image is not None), None)
            if whole is not None:
                blank = np.zeros_like(whole)
                stacked = np.stack([blank if image is None else image for image in images])
                yield stacked, labels, valid


def _read_ahead(
    pool: ThreadPoolExecutor, images: Sequence[np.ndarray], ahead: int
) -> Iterator[Future[np.ndarray]]:
    """Futures of the images in order, `ahead` of them in work before they are asked for."""
    waiting: collections.deque[Future[np.ndarray]] = collections.deque()
    for index in range(len(images)):
        waiting.append(pool.submit(images.__getitem__, index))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
