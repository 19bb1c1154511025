"""Reads Fashion-MNIST's original files and names the splits the embedded experiment uses."""

import gzip
from pathlib import Path

import numpy as np

# The last images of the training split are never trained on: settings are chosen on them.
NUM_TRAINING = 55_000


def read_splits(directory: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Splits as ([N, 28, 28] uint8 images, [N] uint8 labels): training, validation and test.

    Args:
      directory: holds the four `*-ubyte.gz` files (Debian: package `dataset-fashion-mnist`).
    """
    images, labels = _read_pair(directory, "train")
    return {
        "training": (images[:NUM_TRAINING], labels[:NUM_TRAINING]),
        "validation": (images[NUM_TRAINING:], labels[NUM_TRAINING:]),
        "test": _read_pair(directory, "t10k"),
    }


def _read_pair(directory: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    images = _read_idx(directory / f"{name}-images-idx3-ubyte.gz", header=16)
    labels = _read_idx(directory / f"{name}-labels-idx1-ubyte.gz", header=8)
    return images.reshape(-1, 28, 28), labels


def _read_idx(path: Path, header: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)
