"""Pictures and their label maps: a folder of each, and a PNG for every picture.

In ADE20K's maps 0 is nothing, and class 0 has number 1; in others numbers are the classes, and 255
is nothing.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from maskaq_jax.data import image_files, preprocessing
from maskaq_jax.data.dataset import (
    UNKNOWN_LABEL,
    Example,
    NamedClasses,
    check_colours,
    check_task,
)
from maskaq_jax.data.preprocessing import Preprocessing, Size
from maskaq_jax.models import Model
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import notes, paths
from maskaq_jax.storage.notes import Tell

ADE20K = "ade20k"
LABEL_MAPS = "label_maps"
# What is nothing in all label maps.
_NOTHING = 255


@dataclasses.dataclass(frozen=True)
class LabelMaps:
    """Pictures to evaluate a segmenter on.

    Attributes:
      path: folder of the pictures, at any depth; `~` is the user's own.
      labels: folder of the label maps, each where its picture is in the other, as a PNG.
      preprocessing: how both become the model's size.
      zero_is_nothing: whether 0 is nothing, as in ADE20K, and class 0 has number 1.
    """

    path: str
    labels: str
    preprocessing: Preprocessing
    zero_is_nothing: bool = False

    @property
    def kind(self) -> str:
        """What `config.evaluation.dataset` calls it."""
        return ADE20K if self.zero_is_nothing else LABEL_MAPS

    @property
    def name(self) -> str:
        """What `results.json` calls it."""
        return f"{self.kind} {self.path} {self.labels}"

    def check(self, model: Model) -> None:
        """Raises `ConfigError` unless both folders are there, and the model segments colours."""
        field = f"config.evaluation.dataset {self.kind!r}"
        check_task(field, "label maps", model, "segmentation")
        for name in ("path", "labels"):
            missing = paths.missing_folder(f"config.evaluation.{name}", getattr(self, name))
            if missing:
                raise ConfigError(missing)
        if paths.expanded_path(self.path).samefile(paths.expanded_path(self.labels)):
            raise ConfigError(
                "config.evaluation.labels is the folder of config.evaluation.path: label maps take "
                "one of their own"
            )
        check_colours(field, model)

    def open(self, model: Model, tell: Tell = notes.log) -> NamedClasses:
        """Finds pictures and label maps, as `open_label_maps` does."""
        return open_label_maps(
            paths.expanded_path(self.path),
            paths.expanded_path(self.labels),
            model.num_classes,
            model.input_shape[:2],
            self.preprocessing,
            self.zero_is_nothing,
            tell,
        )


@dataclasses.dataclass(frozen=True)
class MappedFiles:
    """Pictures and label maps that are read when they are asked for.

    Attributes:
      files: of each picture and its label map.
      num_classes: of the model; they are named by their numbers.
      size: height and width of the model's images.
      settings: how both are resized and cropped.
      zero_is_nothing: as of `LabelMaps`.
    """

    files: tuple[tuple[Path, Path], ...]
    num_classes: int
    size: tuple[int, int]
    settings: Preprocessing
    zero_is_nothing: bool

    @property
    def class_names(self) -> tuple[str, ...]:
        """Their numbers."""
        return tuple(map(str, range(self.num_classes)))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> Example:
        picture, labels = self.files[index]
        image = preprocessing.read_image(picture, str(picture), self.size, self.settings)
        return image, read_labels(
            labels, str(labels), self.size, self.settings, self.zero_is_nothing
        )


def open_label_maps(
    root: Path,
    labels_root: Path,
    num_classes: int,
    size: tuple[int, int],
    settings: Preprocessing,
    zero_is_nothing: bool,
    tell: Tell = notes.log,
) -> NamedClasses:
    """Finds the pictures below a folder, and checks the label map of each.

    Args:
      root: of the pictures.
      labels_root: of the label maps: that of `a/b.jpg` is `a/b.png`.
      num_classes: of the model.
      size: height and width of the model's images.
      settings: how both are resized and cropped.
      zero_is_nothing: as of `LabelMaps`.
      tell: is told of label maps without a picture.

    Raises:
      ValueError: no pictures; label maps are missing, unreadable, of another size than their
        picture or of classes that the model lacks.
      OSError: a folder can't be listed.
    """
    pictures = image_files.find_below(root).images
    if labels_root.is_relative_to(root):
        pictures = [path for path in pictures if not path.is_relative_to(labels_root)]
    if not pictures:
        raise ValueError(f"{root} holds no images")
    pairs = tuple(
        (path, (labels_root / path.relative_to(root)).with_suffix(".png")) for path in pictures
    )
    missing = [labels for _, labels in pairs if not labels.is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(pairs)} images of {root} have no label map: no file "
            f"{notes.some(missing)}"
        )
    others = set(image_files.find_below(labels_root).images) - {labels for _, labels in pairs}
    others -= set(pictures)
    if others:
        tell(f"{labels_root}: label maps without an image: {notes.some(sorted(others))}")

    def problem(index: int) -> str | None:
        picture, labels = pairs[index]
        return find_problem(labels, str(labels), picture, num_classes, zero_is_nothing)

    check_each(len(pairs), problem)
    return MappedFiles(pairs, num_classes, size, settings, zero_is_nothing)


def check_each(count: int, find: Callable[[int], str | None]) -> None:
    """Raises ValueError with the first problem that is found, looking for several at a time.

    Args:
      count: how many label maps there are.
      find: what is wrong with the one of a number.
    """
    with ThreadPoolExecutor() as pool:
        for problem in pool.map(find, range(count)):
            if problem:
                pool.shutdown(cancel_futures=True)
                raise ValueError(problem)


def find_problem(
    file: Path | BinaryIO,
    name: str,
    picture: Path | BinaryIO,
    num_classes: int,
    zero_is_nothing: bool,
) -> str | None:
    """What is wrong with a label map: that it can't be read, its size or its classes.

    Args:
      file: a path, or the file's bytes.
      name: what it is called.
      picture: that it is of, likewise.
      num_classes: of the model.
      zero_is_nothing: as of `LabelMaps`.
    """
    try:
        labels = _open(file, name)
    except preprocessing.BrokenImageError as error:
        return str(error)
    largest = int(_classes(np.unique(np.asarray(labels)), zero_is_nothing).max())
    if largest >= num_classes:
        first = "1 where 0 is nothing" if zero_is_nothing else "0"
        return (
            f"label map {name} holds {largest + zero_is_nothing}, but the model has {num_classes} "
            f"classes, from {first}"
        )
    size = _size(picture)
    if size is not None and size != labels.size:
        return (
            f"label map {name} is {labels.width} x {labels.height} pixels, but its image "
            f"{size[0]} x {size[1]}"
        )
    return None


def read_labels(
    file: Path | BinaryIO,
    name: str,
    size: Size,
    settings: Preprocessing,
    zero_is_nothing: bool,
) -> np.ndarray:
    """A label map, resized and cropped as its picture is.

    Args:
      file: a path, or the file's bytes.
      name: what the error calls it.
      size: height and width of the model's images.
      settings: how it is resized and cropped.
      zero_is_nothing: as of `LabelMaps`.

    Returns:
      [height, width] int32, -1 where there is nothing.

    Raises:
      BrokenImageError: it can't be read.
    """
    numbers = preprocessing.preprocess_labels(_open(file, name), size, settings, _NOTHING)
    return _classes(numbers, zero_is_nothing)


def _open(file: Path | BinaryIO, name: str) -> Image.Image:
    """The numbers of a label map, of mode L; of a palette, they count and not the colours."""
    with preprocessing.opened(file, f"label map {name} can't be read") as image:
        mode, size, numbers = image.mode, image.size, image.tobytes()
    if mode not in ("L", "P"):
        raise preprocessing.BrokenImageError(
            f"label map {name} is an image of mode {mode}: expected class numbers, in 8 bits of "
            "one channel or of a palette"
        )
    return Image.frombytes("L", size, numbers)


def _size(picture: Path | BinaryIO) -> tuple[int, int] | None:
    """Width and height; None if it can't be read, which is told when it is evaluated."""
    try:
        with preprocessing.opened(picture, "") as image:
            return image.size
    except preprocessing.BrokenImageError:
        return None


def _classes(numbers: np.ndarray, zero_is_nothing: bool) -> np.ndarray:
    """[...] uint8 of a label map -> int32 classes, -1 where there is nothing."""
    classes = numbers.astype(np.int32) - zero_is_nothing
    return np.where(numbers == _NOTHING, UNKNOWN_LABEL, classes)
