"""Labelled images in folders: one folder a class, or one folder and a file of labels."""

import dataclasses
import os
from pathlib import Path

from maskaq_jax import preprocessing
from maskaq_jax.data import UNKNOWN_LABEL, Dataset, Example
from maskaq_jax.preprocessing import Preprocessing

_ENDINGS = (".jpeg", ".jpg", ".png", ".bmp", ".webp")


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Image files with their labels, each read when it is asked for.

    Attributes:
      files: paths and labels.
      size: side of the images in pixels.
      settings: how they are resized and cropped.
    """

    files: tuple[tuple[Path, int], ...]
    size: int
    settings: Preprocessing

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Example:
        path, label = self.files[index]
        return preprocessing.read_image(path, str(path), self.size, self.settings), label


def open_folder(
    root: Path, labels_file: Path | None, num_classes: int, size: int, settings: Preprocessing
) -> Dataset:
    """Finds the images below a folder, without reading them.

    Args:
      root: holds a folder for each class, whose names in order (numbers by their value) are
        numbered from 0, as ImageNet's `val/<wnid>/*.JPEG`; or, with `labels_file` or without
        classes, the images themselves. Names that start with a dot are passed over.
      labels_file: a line `NAME LABEL` for each image, labels numbered from 0; None for none.
      num_classes: classes of the model; 0 for a model without classifier, which needs no labels.
      size: side of the images in pixels.
      settings: how they are resized and cropped.

    Returns:
      Images that are decoded when they are asked for; labels are -1 where there are none.

    Raises:
      ValueError: no such folder, no images, or classes or labels that don't fit.
      OSError: a folder can't be listed.
    """
    if not root.is_dir():
        raise ValueError(f"no folder {root}")
    if labels_file is not None:
        files = _read_labels(root, labels_file, num_classes)
    elif num_classes == 0:
        files = [(path, UNKNOWN_LABEL) for path in _images_below(root)]
    else:
        files = _read_class_folders(root, num_classes)
    if not files:
        raise ValueError(f"{root} holds no images ending in {', '.join(_ENDINGS)}")
    return ImageFiles(tuple(files), size, settings)


def _images_below(root: Path) -> list[Path]:
    """All but hidden ones, in order; raises OSError for a folder that can't be listed."""

    def fail(error: OSError) -> None:
        raise error

    found = []
    for folder, subfolders, names in os.walk(root, onerror=fail, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in _ENDINGS)


def _read_class_folders(root: Path, num_classes: int) -> list[tuple[Path, int]]:
    folders = sorted(
        (path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")),
        key=_class_order,
    )
    if len(folders) != num_classes:
        if not _images_below(root):
            return []
        raise ValueError(
            f"{root} holds {len(folders)} class folders, but the model has {num_classes} classes: "
            "it takes a folder for each, or images with a file of labels (config.evaluation.labels)"
        )
    return [(path, label) for label, folder in enumerate(folders) for path in _images_below(folder)]


def _class_order(folder: Path) -> tuple[int, str]:
    """Folders named by numbers stand in the order of those; others in that of their names."""
    return (int(folder.name) if folder.name.isdecimal() else 0), folder.name


def _read_labels(root: Path, file: Path, num_classes: int) -> list[tuple[Path, int]]:
    if not file.is_file():
        raise ValueError(f"no file of labels {file}")
    if num_classes == 0:
        raise ValueError(f"{file}: a model without classifier has no use for labels")
    labels: dict[Path, int] = {}
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, text = _split_label(line)
        path = root / name
        if not (name and text.isdecimal() and int(text) < num_classes):
            raise ValueError(
                f"{file}, line {number}: expected an image's name and a label from 0 to "
                f"{num_classes - 1}, got {line.strip()!r}"
            )
        if not path.is_file() or path.suffix.lower() not in _ENDINGS:
            raise ValueError(f"{file}, line {number}: no image {path}")
        if labels.setdefault(path, int(text)) != int(text):
            raise ValueError(f"{file}, line {number}: {name} has another label above")
    return list(labels.items())


def _split_label(line: str) -> tuple[str, str]:
    """The name and the label behind its last comma or space; a name may hold either too."""
    line = line.strip().rstrip(",").rstrip()
    label = (line.replace(",", " ").split() or [""])[-1]
    return line.removesuffix(label).rstrip().removesuffix(",").rstrip(), label
