"""Labelled images in folders: one folder a class, or one folder and a file of labels."""

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from maskaq_jax.data import class_order, image_files, preprocessing
from maskaq_jax.data.class_order import ClassOrder
from maskaq_jax.data.dataset import (
    UNKNOWN_LABEL,
    Dataset,
    Example,
    check_colours,
    check_task,
)
from maskaq_jax.data.image_files import Found
from maskaq_jax.data.preprocessing import Preprocessing, Size
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import Model
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import notes, paths
from maskaq_jax.storage.notes import Tell

FOLDER = "folder"
_FIELD = f"config.evaluation.dataset {FOLDER!r}"


@dataclasses.dataclass(frozen=True)
class Folder:
    """Images to evaluate on, in a folder for each class or with a file of labels.

    Attributes:
      path: of the folder; `~` is the user's own.
      labels: file of a line `NAME LABEL` for each image, or of the classes where they are ordered
        by 'file'; empty for a folder a class.
      preprocessing: how images become the model's size.
      order: what numbers the class folders.
    """

    path: str
    labels: str
    preprocessing: Preprocessing
    order: ClassOrder = class_order.DEFAULT

    @property
    def name(self) -> str:
        """What `results.json` calls it."""
        return f"{FOLDER} {self.path}"

    def check(self, model: Model) -> None:
        """Raises `ConfigError` unless there are such files, and the model classifies in colours."""
        check_task(_FIELD, "labelled images", model, "classification")
        if missing := paths.missing_folder("config.evaluation.path", self.path):
            raise ConfigError(missing)
        labels = self._labels_file
        if labels and not labels.is_file():
            raise ConfigError(f"config.evaluation.labels: {paths.missing_file(labels)}")
        if self.order == "file" and not labels:
            raise ConfigError(
                "config.evaluation.order is 'file', which needs config.evaluation.labels: a file "
                "with the name of a class folder a line, in the order of the model's classes"
            )
        if labels and self.order == "name":
            raise ConfigError(
                "config.evaluation.order is 'name', but config.evaluation.labels is set: 'file' "
                "reads class folders in its order, 'number' the label of each image"
            )
        check_colours(_FIELD, model)

    def open(self, model: Model, tell: Tell = notes.log) -> Dataset:
        """Finds the images, as `open_folder` does."""
        return open_folder(
            paths.expanded_path(self.path),
            self._labels_file,
            model.num_classes,
            model.input_shape[:2],
            self.preprocessing,
            self.order,
            tell,
        )

    @property
    def has_class_folders(self) -> bool:
        """Whether labels are those of class folders."""
        return not self.labels or self.order == "file"

    @property
    def _labels_file(self) -> Path | None:
        return paths.expanded_path(self.labels) if self.labels else None


@dataclasses.dataclass(frozen=True)
class FolderReal:
    """Images of one's own, without labels: the samples of the method 'real'.

    Attributes:
      path: of a folder that holds them, at any depth; `~` is the user's own.
      num_samples: how many of them, from all over the folder.
      pixels: their normalisation.
      preprocessing: how images become the model's size.
    """

    path: str
    num_samples: int
    pixels: Pixels
    preprocessing: Preprocessing

    def check(self, model: Model) -> None:
        """Raises `ConfigError` unless there are as many images, and the model takes colours."""
        if missing := paths.missing_folder("config.samples.real", self.path):
            raise ConfigError(missing)
        found = len(self.find().images)
        if found < self.num_samples:
            raise ConfigError(
                f"config.samples.num_samples is {self.num_samples}, but config.samples.real "
                f"{self.path!r} holds {found} images"
            )
        check_colours("config.samples.real", model)

    def find(self) -> Found:
        """All files of the folder."""
        return image_files.find_below(paths.expanded_path(self.path))

    def read(self, model: Model, tell: Tell = notes.log) -> np.ndarray:
        """Reads them, [num_samples, height, width, 3] float32, and tells what is passed over.

        Raises:
          ConfigError: one can't be read; it is named.
        """
        files, others = self.find()
        _tell_of_others(paths.expanded_path(self.path), others, tell)
        chosen = np.linspace(0, len(files) - 1, self.num_samples).round().astype(int)
        size = model.input_shape[:2]
        try:
            images = [
                preprocessing.read_image(files[i], str(files[i]), size, self.preprocessing)
                for i in chosen
            ]
        except preprocessing.BrokenImageError as error:
            raise ConfigError(f"config.samples.real: {error}") from error
        return self.pixels.from_bytes(np.stack(images))


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Image files with their labels, each read when it is asked for.

    Attributes:
      files: paths and labels.
      size: side of the images in pixels, or their height and width.
      settings: how they are resized and cropped.
    """

    files: tuple[tuple[Path, int], ...]
    size: Size
    settings: Preprocessing

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Example:
        path, label = self.files[index]
        return preprocessing.read_image(path, str(path), self.size, self.settings), label


def open_folder(
    root: Path,
    labels_file: Path | None,
    num_classes: int,
    size: Size,
    settings: Preprocessing,
    order: ClassOrder = class_order.DEFAULT,
    tell: Tell = notes.log,
) -> Dataset:
    """Finds the images below a folder, without reading them.

    Args:
      root: holds a folder for each class, as ImageNet's `val/<wnid>/*.JPEG`; or, with `labels_file`
        or without classes, the images themselves. Hidden ones are passed over, and so are folders
        that systems make.
      labels_file: a line `NAME LABEL` for each image, labels numbered from 0, or what numbers the
        class folders where they are ordered by 'file'; None for none.
      num_classes: classes of the model; one without classifier or with a single class, of which
        there is no accuracy, needs no labels.
      size: side of the images in pixels, or their height and width.
      settings: how they are resized and cropped.
      order: what numbers class folders.
      tell: is told what is passed over.

    Returns:
      Images that are decoded when they are asked for; labels are -1 where there are none.

    Raises:
      ValueError: no such folder, no images, or classes or labels that don't fit.
      OSError: a folder can't be listed.
    """
    if not root.is_dir():
        raise ValueError(f"no folder {root}")
    if labels_file is not None and order != "file":
        files = _read_labels(root, labels_file, num_classes)
        listed = {path for path, _ in files}
        _tell_of_unlisted(root, labels_file, listed, tell)
    elif num_classes < 2:
        found = image_files.find_below(root)
        _tell_of_others(root, found.others, tell)
        files = [(path, UNKNOWN_LABEL) for path in found.images]
    else:
        files = _read_class_folders(root, num_classes, order, labels_file, tell)
    if not files:
        raise _no_images(root)
    return ImageFiles(tuple(files), size, settings)


# Of the hundred that Pillow reads.
_COMMON_ENDINGS = (".jpeg", ".jpg", ".png", ".tif", ".webp")


def _no_images(root: Path) -> ValueError:
    endings = ", ".join(_COMMON_ENDINGS)
    return ValueError(
        f"{root} holds no images ending in {endings} or as other formats that Pillow reads"
    )


def _read_class_folders(
    root: Path, num_classes: int, order: ClassOrder, classes_file: Path | None, tell: Tell
) -> list[tuple[Path, int]]:
    inside = sorted(root.iterdir())
    folders = [path for path in inside if path.is_dir()]
    skipped = [path for path in folders if image_files.is_of_system(path.name)]
    found = {path: image_files.find_below(path) for path in folders if path not in skipped}
    if order != "file" and len(found) > num_classes:
        # A folder that holds no image is no class, unless the model counts it as one.
        empty = [path for path in found if not found[path].images]
        if len(found) - len(empty) == num_classes:
            found = {path: found[path] for path in found if path not in empty}
            skipped += empty
    passed_over = ""
    if skipped:
        names = notes.some([path.name for path in skipped])
        passed_over = f"{root}: folders that are no classes are passed over: {names}"
    beside = image_files.sort_out(
        [path for path in inside if path.is_file() and path.name[0] != "."]
    )
    try:
        if not any(below.images for below in found.values()) and not beside.images:
            raise _no_images(root)
        splits = [path for path in found if _is_split(path, found[path])]
        labels = _number(root, list(found), num_classes, order, classes_file, splits, tell)
    except ValueError as error:
        if not passed_over:
            raise
        raise ValueError(f"{error}; {passed_over}") from error
    if passed_over:
        tell(passed_over)
    if beside.images:
        names = notes.some([path.name for path in beside.images])
        tell(
            f"{root}: {len(beside.images)} images beside the class folders are passed over, since "
            f"they are of no class: {names}"
        )
    _tell_of_others(root, [path for below in found.values() for path in below.others], tell)
    return [
        (path, label)
        for folder, label in sorted(labels.items(), key=lambda item: item[1])
        for path in found[folder].images
    ]


# Parts of a dataset: `train`, `val2017`, `test_set`.
_SPLIT = re.compile(
    r"(train(ing)?|val(id(ation)?)?|test(ing)?|dev|eval(uation)?|hold[-_ ]?out)"
    r"([-_ ]?(set|split|data|images|\d+))?",
    re.IGNORECASE,
)


def _is_split(folder: Path, found: Found) -> bool:
    """Whether it is named as a part of a dataset, and holds folders of images, as those do."""
    return (
        bool(_SPLIT.fullmatch(folder.name))
        and bool(found.images)
        and not any(path.parent == folder for path in found.images)
    )


def _number(
    root: Path,
    folders: list[Path],
    num_classes: int,
    order: ClassOrder,
    classes_file: Path | None,
    splits: list[Path],
    tell: Tell,
) -> Mapping[Path, int]:
    """The label of each class folder."""
    names = [folder.name for folder in folders]
    if order == "file":
        assert classes_file is not None
        try:
            labels = class_order.read_labels(classes_file, names, num_classes)
        except ValueError as error:
            raise ValueError(f"{error}: {_no_classes(root, splits)}" if splits else error) from None
        return {folder: labels[folder.name] for folder in folders}
    if splits or (names and all(_SPLIT.fullmatch(name) for name in names)):
        raise ValueError(_no_classes(root, splits or folders))
    if order == "number":
        class_order.check_numbers(root, names, num_classes)
    if len(folders) != num_classes:
        raise ValueError(
            f"{root} holds {len(folders)} class folders, but the model has {num_classes} classes: "
            "it takes a folder for each, or images with a file of labels "
            "(config.evaluation.labels), or folders of some of the classes with "
            "config.evaluation.order='file', where config.evaluation.labels names the folders of "
            "all classes, one a line"
        )
    ordered = sorted(names, key=class_order.by_number if order == "number" else None)
    if order == "number" and ordered[0].isdecimal() and int(ordered[0]) == 1:
        tell(f"{root}: class folders 1 to {num_classes} have the labels 0 to {num_classes - 1}")
    return {folder: ordered.index(folder.name) for folder in folders}


def _no_classes(root: Path, splits: list[Path]) -> str:
    return (
        f"{root} holds {notes.some([folder.name for folder in splits])}, which are splits of a "
        f"dataset, not classes: name the folder of one, as {splits[-1]}"
    )


def _tell_of_unlisted(root: Path, labels: Path, listed: Collection[Path], tell: Tell) -> None:
    """Counts and names images that a file of labels leaves out."""
    others = [path for path in image_files.find_below(root).images if path not in listed]
    if others:
        names = notes.some([path.relative_to(root) for path in others])
        tell(f"{root}: {len(others)} images are passed over, which {labels} doesn't name: {names}")


def _tell_of_others(root: Path, others: list[Path], tell: Tell) -> None:
    """Counts and names files that are passed over."""
    if others:
        endings = sorted({path.suffix.lower() or "no ending" for path in others})
        names = notes.some([path.relative_to(root) for path in others])
        tell(
            f"{root}: {len(others)} files are passed over, which Pillow does not read as images "
            f"({notes.some(endings, 8)}): {names}"
        )


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
        if not path.is_file() or path.suffix.lower() not in preprocessing.readable_endings():
            raise ValueError(f"{file}, line {number}: no image {path}")
        if labels.setdefault(path, int(text)) != int(text):
            raise ValueError(f"{file}, line {number}: {name} has another label above")
    if not labels:
        raise ValueError(
            f"{root} holds no images for {file}, which names none: it takes a line `NAME LABEL` "
            "for each"
        )
    return list(labels.items())


def _split_label(line: str) -> tuple[str, str]:
    """The name and the label behind its last comma or space; a name may hold either too."""
    line = line.strip().rstrip(",").rstrip()
    label = (line.replace(",", " ").split() or [""])[-1]
    return line.removesuffix(label).rstrip().removesuffix(",").rstrip(), label
