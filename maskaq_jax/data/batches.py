"""Batches of images, read ahead by several threads."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from maskaq_jax.data.dataset import Dataset, Example
from maskaq_jax.data.preprocessing import BrokenImageError
from maskaq_jax.devices.parallel import HostRows
from maskaq_jax.images.pixels import Pixels

# Reads the images of given global numbers: [B] int -> [B, height, width, channels] float32.
ReadImages = Callable[[np.ndarray], np.ndarray]


class LabelledBatch(NamedTuple):
    """A host's rows of a batch of images, or a device's.

    Attributes:
      images: [B, height, width, channels] float32, normalised.
      labels: [B] int32, or [B, height, width] of label maps; of no meaning where there are none.
      valid: [B] bool, false where an image is padding, or could not be read.
    """

    images: Any
    labels: Any
    valid: Any


# Enough that reading does not wait for the model, or the model for reading.
_BATCHES_AHEAD = 2


def read_batches(
    dataset: Dataset,
    pixels: Pixels,
    shape: tuple[int, int, int],
    batches_of_rows: Iterable[HostRows],
    on_broken: Callable[[str], None] = lambda message: None,
    label_shape: tuple[int, ...] = (),
) -> Iterator[LabelledBatch]:
    """This host's rows of each batch of a dataset, normalised.

    Several threads read, some batches ahead; a broken image is told to `on_broken` and not valid,
    and what pads a batch is not read.

    Args:
      dataset: the examples.
      pixels: the normalisation.
      shape: height, width and channels of an image.
      batches_of_rows: of `rows_of_batches`.
      on_broken: is told which image can't be read.
      label_shape: of `dataset.label_shape`.
    """
    with ThreadPoolExecutor() as pool:
        for rows, futures in _read_ahead(pool, dataset, batches_of_rows):
            images = np.zeros((len(rows.indices), *shape), np.uint8)
            labels = np.zeros((len(rows.indices), *label_shape), np.int32)
            valid = np.zeros(len(rows.indices), bool)
            for place, future in futures:
                try:
                    images[place], labels[place] = future.result()
                    valid[place] = True
                except BrokenImageError as error:
                    on_broken(str(error))
            yield LabelledBatch(pixels.from_bytes(images), labels, valid)


def sample_batches(
    read_images: ReadImages, batches_of_rows: Iterable[HostRows]
) -> Iterator[LabelledBatch]:
    """As `read_batches`, of images that are normalised already and have no labels."""
    for rows in batches_of_rows:
        labels = np.zeros(len(rows.indices), np.int32)
        yield LabelledBatch(read_images(rows.indices), labels, rows.valid)


def _read_ahead(
    pool: ThreadPoolExecutor, dataset: Dataset, batches_of_rows: Iterable[HostRows]
) -> Iterator[tuple[HostRows, list[tuple[int, Future[Example]]]]]:
    """Rows and the futures of their examples, some batches in work before they are asked for."""
    waiting: collections.deque[tuple[HostRows, list[tuple[int, Future[Example]]]]]
    waiting = collections.deque()
    for rows in batches_of_rows:
        futures = [
            (int(place), pool.submit(dataset.__getitem__, int(rows.indices[place])))
            for place in np.flatnonzero(rows.valid)
        ]
        waiting.append((rows, futures))
        if len(waiting) > _BATCHES_AHEAD:
            yield waiting.popleft()
    yield from waiting
