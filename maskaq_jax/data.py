"""Datasets with labels: the embedded one."""

import dataclasses
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np

from maskaq_jax.augment import Pixels

EMBEDDED = "fashion_mnist"
EMBEDDED_SPLITS = ("test", "validation", "real")
EMBEDDED_SCHEME = "embedded:"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images in memory.

    Attributes:
      images: [N, height, width, channels] uint8.
      labels: [N] int32.
    """

    images: np.ndarray
    labels: np.ndarray


def asset_path(name: str) -> Path:
    """Where a file of `maskaq_jax/assets` lies."""
    return Path(str(resources.files("maskaq_jax.assets"))) / name


def weights_path(weights: str) -> Path:
    """A path as given, or the asset that `embedded:NAME` stands for."""
    if weights.startswith(EMBEDDED_SCHEME):
        return asset_path(f"{weights.removeprefix(EMBEDDED_SCHEME)}.safetensors")
    return Path(weights)


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
    dataset: Dataset, pixels: Pixels, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Normalised images, labels and validity in batches of one size, the last one padded."""
    for start in range(0, len(dataset.labels), batch_size):
        images = normalise(dataset.images[start : start + batch_size], pixels)
        labels = dataset.labels[start : start + batch_size]
        padding = batch_size - len(labels)
        yield (
            np.pad(images, [(0, padding), (0, 0), (0, 0), (0, 0)]),
            np.pad(labels, (0, padding)),
            np.arange(batch_size) < len(labels),
        )
