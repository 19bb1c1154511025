"""Labelled images in folders: one folder a class, or one folder and a file of labels."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image, UnidentifiedImageError

from maskaq_jax import preprocessing
from maskaq_jax.data import BrokenImageError, Dataset
from maskaq_jax.preprocessing import Preprocessing

_ENDINGS = (".jpeg", ".jpg", ".png", ".bmp", ".webp")
_UNKNOWN_LABEL = -1


@dataclasses.dataclass(frozen=True)
class ImageFiles(Sequence[np.ndarray]):
    """Image files as a sequence of [size, size, 3] uint8 arrays, decoded when asked for.

    Attributes:
      paths: of the files.
      decode: a picture's pixels.
    """

    paths: tuple[Path, ...]
    decode: Callable[[Image.Image], np.ndarray]

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageFiles": ...
    def __getitem__(self, index: int | slice) -> "np.ndarray | ImageFiles":
        if isinstance(index, slice):
            return dataclasses.replace(self, paths=self.paths[index])
        try:
            with Image.open(self.paths[index]) as image:
                return self.decode(image)
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise BrokenImageError(f"{self.paths[index]}: {error}") from error


def open_folder(
    root: Path, labels_file: Path | None, num_classes: int, size: int, spec: Preprocessing
) -> Dataset:
    """Finds the images below a folder, without reading them.

    Args:
      root: holds a folder for each class, whose sorted names are numbered from 0 as ImageNet's
        `val/<wnid>/*.JPEG`; or, with `labels_file` or without classes, the images themselves.
      labels_file: a line `NAME LABEL` for each image, labels numbered from 0; None for none.
      num_classes: classes of the model; 0 for a model without classifier, which needs no labels.
      size: side the images are made to.
      spec: how.

    Returns:
      Images that are decoded when they are asked for; labels are -1 where there are none.

    Raises:
      ValueError: no such folder, no images, or classes or labels that don't fit.
    """
    if not root.is_dir():
        raise ValueError(f"no folder {root}")
    if labels_file is not None:
        paths, labels = _read_labels(root, labels_file, num_classes)
    elif num_classes == 0:
        paths = _images_below(root)
        labels = [_UNKNOWN_LABEL] * len(paths)
    else:
        paths, labels = _read_class_folders(root, num_classes)
    if not paths:
        raise ValueError(f"{root} holds no images ending in {', '.join(_ENDINGS)}")
    decode = functools.partial(preprocessing.preprocess, size=size, spec=spec)
    return Dataset(ImageFiles(tuple(paths), decode), np.asarray(labels, np.int32))


def _images_below(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in _ENDINGS)


def _read_class_folders(root: Path, num_classes: int) -> tuple[list[Path], list[int]]:
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    if len(folders) != num_classes:
        raise ValueError(
            f"{root} holds {len(folders)} class folders, but the model has {num_classes} classes: "
            "it takes a folder for each, or images with a file of labels (config.evaluation.labels)"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = _images_below(folder)
        paths += found
        labels += [label] * len(found)
    return paths, labels


def _read_labels(root: Path, file: Path, num_classes: int) -> tuple[list[Path], list[int]]:
    if not file.is_file():
        raise ValueError(f"no file of labels {file}")
    paths, labels = [], []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, text = line.replace(",", " ").strip().rpartition(" ")
        path = root / name.strip()
        if not (name and text.isdecimal() and int(text) < num_classes):
            raise ValueError(
                f"{file}, line {number}: expected an image's name and a label from 0 to "
                f"{num_classes - 1}, got {line.strip()!r}"
            )
        if not path.is_file():
            raise ValueError(f"{file}, line {number}: no image {path}")
        paths.append(path)
        labels.append(int(text))
    return paths, labels
