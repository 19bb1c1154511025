"""Labelled images: the embedded ones, and batches of any."""

import collections
import difflib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np

from maskaq_jax.augment import Pixels
from maskaq_jax.preprocessing import BrokenImageError

EMBEDDED = "fashion_mnist"
EMBEDDED_SIZE = (28, 28)
EMBEDDED_SPLITS = ("test", "validation", "real")
EMBEDDED_SCHEME = "embedded:"
TFDS_SCHEME = "tfds:"
# Enough that reading does not wait for the model, or the model for reading.
_BATCHES_AHEAD = 2


# An image, [height, width, channels] uint8, and its label, -1 where unknown.
Example = tuple[np.ndarray, int]


class Dataset(Protocol):
    """Examples that several threads may read, in any order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example:
        """Raises BrokenImageError."""


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


def load_embedded(split: str, num_channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the embedded Fashion-MNIST images, the grey value on every channel.

    Args:
      split: 'test', 'validation' (kept out of the teacher's training) or 'real' (trained on).
      num_channels: channels the model takes.

    Returns:
      images: [N, 28, 28, num_channels] uint8.
      labels: [N] int32.
    """
    with np.load(asset_path(f"fashion_{split}.npz"), allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    images = np.repeat(images[..., None], num_channels, axis=-1)
    return images, labels.astype(np.int32)


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

    The last batch is padded. Several threads read, some batches ahead; a broken image is told to
    `on_broken` and not valid, and a batch without any other is left out.
    """
    with ThreadPoolExecutor() as pool:
        futures = _read_ahead(pool, dataset, _BATCHES_AHEAD * batch_size)
        while waiting := list(itertools.islice(futures, batch_size)):
            examples = []
            for future in waiting:
                try:
                    examples.append(future.result())
                except BrokenImageError as error:
                    on_broken(str(error))
            if examples:
                images, labels = zip(*examples, strict=True)
                normalised = normalise(np.stack(images), pixels)
                yield _padded(normalised, np.asarray(labels, np.int32), batch_size)


def sample_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The same of images that are normalised already, [N, height, width, channels] float32."""
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        yield _padded(images[part], labels[part], batch_size)


def _padded(
    images: np.ndarray, labels: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    padding = size - len(labels)
    return (
        np.pad(images, [(0, padding), (0, 0), (0, 0), (0, 0)]),
        np.pad(labels, (0, padding)),
        np.arange(size) < len(labels),
    )


def _read_ahead(
    pool: ThreadPoolExecutor, dataset: Dataset, ahead: int
) -> Iterator[Future[Example]]:
    """Futures of the examples in order, `ahead` of them in work before they are asked for."""
    waiting: collections.deque[Future[Example]] = collections.deque()
    for index in range(len(dataset)):
        waiting.append(pool.submit(dataset.__getitem__, index))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting
