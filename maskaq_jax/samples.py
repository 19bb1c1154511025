"""The store of synthetic images: one file a batch, in a folder a refresh."""

import os
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def shard_path(directory: Path, refresh: int, batch: int) -> Path:
    """Where a batch of a refresh is stored."""
    return directory / f"refresh_{refresh:03d}" / f"batch_{batch:05d}.safetensors"


def write_shard(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Stores a batch; the file appears whole or not at all.

    Args:
      path: of `shard_path`.
      images: [B, height, width, channels] float32, normalised.
      labels: [B] int32 classes they were made for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file({"images": np.ascontiguousarray(images), "labels": labels}, unfinished)
    os.replace(unfinished, path)


def read_shard(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of `write_shard`."""
    arrays = load_file(path)
    return arrays["images"], arrays["labels"]
