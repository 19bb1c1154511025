"""Labelled images: the embedded ones, and batches of any."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from maskaq_jax import paths
from maskaq_jax.parallel import HostShare
from maskaq_jax.pixels import Pixels
from maskaq_jax.preprocessing import BrokenImageError

EMBEDDED = "fashion_mnist"
EMBEDDED_SIZE = (28, 28)
# Of evaluation; "real" has images for the method of that name, which the teachers were trained on.
EMBEDDED_SPLITS = ("test", "validation")
TFDS_SCHEME = "tfds:"
# Enough that reading does not wait for the model, or the model for reading.
_BATCHES_AHEAD = 2


# An image, [height, width, channels] uint8, and its label, -1 where unknown.
Example = tuple[np.ndarray, int]

# The label of an image that has none.
UNKNOWN_LABEL = -1


class Dataset(Protocol):
    """Examples that several threads may read, in any order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example:
        """Raises BrokenImageError, or what the machine failed with."""


def load_embedded(split: str, num_channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads the embedded Fashion-MNIST images, the grey value on every channel.

    Args:
      split: 'test', 'validation' (kept out of the teacher's training) or 'real' (trained on).
      num_channels: channels the model takes.

    Returns:
      images: [N, 28, 28, num_channels] uint8.
      labels: [N] int32.
    """
    with np.load(paths.asset_path(f"fashion_{split}.npz"), allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    images = np.repeat(images[..., None], num_channels, axis=-1)
    return images, labels.astype(np.int32)


def check_readable(dataset: Dataset) -> None:
    """Raises OSError if no image can be read; where there are no labels, none is before training.

    Reads as many as it takes to find one that can.
    """
    broken = ""
    for index in range(len(dataset)):
        try:
            dataset[index]
        except BrokenImageError as error:
            broken = broken or f"no evaluation image can be read: {error}"
        else:
            return
    raise OSError(broken or "there are no evaluation images")


def batches(
    dataset: Dataset,
    pixels: Pixels,
    shape: tuple[int, int, int],
    shares: Iterable[HostShare],
    on_broken: Callable[[str], None] = lambda message: None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Normalised images, labels and validity of this host's share of each batch.

    Several threads read, some batches ahead; a broken image is told to `on_broken` and not valid,
    and what pads a batch is not read.

    Args:
      dataset: the examples.
      pixels: the normalisation.
      shape: height, width and channels of an image.
      shares: of `share_batches`.
      on_broken: is told which image can't be read.
    """
    with ThreadPoolExecutor() as pool:
        for share, futures in _read_ahead(pool, dataset, shares):
            images = np.zeros((len(share.indices), *shape), np.uint8)
            labels = np.zeros(len(share.indices), np.int32)
            valid = np.zeros(len(share.indices), bool)
            for place, future in futures:
                try:
                    images[place], labels[place] = future.result()
                    valid[place] = True
                except BrokenImageError as error:
                    on_broken(str(error))
            yield pixels.from_bytes(images), labels, valid


def sample_batches(
    read_images: Callable[[np.ndarray], np.ndarray], shares: Iterable[HostShare]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """As `batches`, of images that are normalised already and have no labels."""
    for share in shares:
        labels = np.zeros(len(share.indices), np.int32)
        yield read_images(share.indices), labels, share.valid


def _read_ahead(
    pool: ThreadPoolExecutor, dataset: Dataset, shares: Iterable[HostShare]
) -> Iterator[tuple[HostShare, list[tuple[int, Future[Example]]]]]:
    """Shares and the futures of their examples, some batches in work before they are asked for."""
    waiting: collections.deque[tuple[HostShare, list[tuple[int, Future[Example]]]]]
    waiting = collections.deque()
    for share in shares:
        futures = [
            (int(place), pool.submit(dataset.__getitem__, int(share.indices[place])))
            for place in np.flatnonzero(share.valid)
        ]
        waiting.append((share, futures))
        if len(waiting) > _BATCHES_AHEAD:
            yield waiting.popleft()
    yield from waiting
