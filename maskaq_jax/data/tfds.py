"""Labelled images of TensorFlow Datasets, read from ArrayRecord files without TensorFlow."""

import dataclasses
import difflib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from maskaq_jax.data import label_maps, preprocessing
from maskaq_jax.data.boxes import Boxes
from maskaq_jax.data.coco import check_keeps_all
from maskaq_jax.data.dataset import UNKNOWN_LABEL, Dataset, Example, check_colours
from maskaq_jax.data.preprocessing import Placement, Preprocessing, Size
from maskaq_jax.models import Model
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import notes, paths
from maskaq_jax.storage.notes import Tell

TFDS_SCHEME = "tfds:"
# Features of what there is to segment, as in 'scene_parse150' (0 is nothing), and to detect.
_MAP, _OBJECTS = "annotation", "objects"


@dataclasses.dataclass(frozen=True)
class Tfds:
    """Images to evaluate on, of TensorFlow Datasets.

    Attributes:
      dataset: TFDS's name of it, such as 'imagenet2012'.
      split: such as 'validation'; TFDS's slices work too.
      path: where it was prepared; empty for TFDS's own place.
      preprocessing: how images become the model's size.
    """

    dataset: str
    split: str
    path: str
    preprocessing: Preprocessing

    @property
    def name(self) -> str:
        """What `results.json` calls it."""
        return " ".join(filter(None, (self._address, self.path, self.split)))

    @property
    def _address(self) -> str:
        return f"{TFDS_SCHEME}{self.dataset}"

    def check(self, model: Model) -> None:
        """Raises `ConfigError` unless it has a split, and the model takes whole colour pictures."""
        if not self.split:
            raise ConfigError(
                "config.evaluation.split is missing: name a split of "
                f"{self._address!r}, such as 'validation'"
            )
        if model.task == "detection":
            check_keeps_all(self.preprocessing)
        check_colours(f"config.evaluation.dataset {self._address!r}", model)

    def open(self, model: Model, tell: Tell = notes.log) -> Dataset:
        """Finds the images, as `open_split`, `open_boxes` or `open_maps` does."""
        del tell
        openers = {"classification": open_split, "detection": open_boxes, "segmentation": open_maps}
        return openers[model.task](
            self.dataset,
            self.split,
            str(paths.expanded_path(self.path)) if self.path else "",
            model.num_classes,
            model.input_shape[:2],
            self.preprocessing,
        )


@dataclasses.dataclass(frozen=True)
class _Records:
    """A split's images, each read when it is asked for.

    Attributes:
      records: of the split, with files as they are.
      name: of dataset and split, for errors.
      size: side the images are made to, or their height and width.
      settings: crop ratio and interpolation.
    """

    records: Sequence[dict[str, Any]]
    name: str
    size: Size
    settings: Preprocessing

    def __len__(self) -> int:
        return len(self.records)

    def read(self, index: int, record: dict[str, Any]) -> np.ndarray:
        """[height, width, 3] uint8 of a record."""
        file = io.BytesIO(record["image"])
        return preprocessing.read_image(file, self.name_of(index), self.size, self.settings)

    def name_of(self, index: int) -> str:
        """What errors call an image."""
        return f"{self.name}, image {index}"


class TfdsImages(_Records):
    """Images and the numbers of their classes."""

    def __getitem__(self, index: int, /) -> Example:
        record = self.records[index]
        return self.read(index, record), record["label"]


@dataclasses.dataclass(frozen=True)
class TfdsBoxes(_Records):
    """Images and their boxes.

    Attributes:
      class_names: as TFDS has them.
    """

    class_names: tuple[str, ...]

    def __getitem__(self, index: int, /) -> Example:
        return self.read(index, self.records[index]), index

    def boxes(self, index: int, /) -> Boxes:
        """What there is in an image."""
        record = self.records[index]
        height, width = _picture_size(record["image"])
        objects = record[_OBJECTS]
        # Top, left, bottom and right, in shares of the picture.
        corners = np.asarray(objects["bbox"], np.float64).reshape(-1, 4)[:, [1, 0, 3, 2]]
        corners = corners * [width, height, width, height]
        own = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
        return Boxes(
            corners,
            np.asarray(objects["label"], np.int32),
            np.asarray(objects.get("area", own), np.float64),
            np.asarray(objects.get("is_crowd", np.zeros(len(corners))), bool),
        )

    def placement(self, index: int, /) -> Placement:
        """Where a picture lies in the model's image."""
        size = _picture_size(self.records[index]["image"])
        return preprocessing.place(size, self.size, self.settings)


@dataclasses.dataclass(frozen=True)
class TfdsMaps(_Records):
    """Images and their label maps, in which 0 is nothing.

    Attributes:
      class_names: their numbers.
    """

    class_names: tuple[str, ...]

    def __getitem__(self, index: int, /) -> Example:
        record = self.records[index]
        return self.read(index, record), label_maps.read_labels(
            io.BytesIO(record[_MAP]), self.name_of(index), self.size, self.settings, True
        )


def _picture_size(file: bytes) -> tuple[int, int]:
    """Height and width of a picture that can be read."""
    with Image.open(io.BytesIO(file)) as image:
        return image.height, image.width


def open_split(
    dataset: str, split: str, data_dir: str, num_classes: int, size: Size, settings: Preprocessing
) -> Dataset:
    """Opens a prepared dataset, without reading its images.

    Args:
      dataset: TFDS's name of it, such as 'imagenet2012' or 'imagenet_v2/matched-frequency'.
      split: such as 'validation'; TFDS's slices ('validation[:1000]') work too.
      data_dir: where it was prepared; empty for TFDS's own place.
      num_classes: classes of the model; 0 for a model without classifier.
      size: side the images are made to, or their height and width.
      settings: crop ratio and interpolation.

    Returns:
      Images that are decoded when they are asked for, and their labels.

    Raises:
      ValueError: no such dataset or split, not prepared as ArrayRecord, without images or labels,
        or of another number of classes.
    """
    builder = _find(dataset, data_dir)
    _check_features(dataset, builder, {"image": "Image", "label": "ClassLabel"}, "a classifier")
    _check_classes(dataset, builder.info.features["label"].num_classes, num_classes)
    records = _read(builder, dataset, split, data_dir, {"image"})
    # Splits may be added, as in 'validation+test': one of them may lack labels.
    ends = {0, len(records) - 1} if len(records) else set()
    if num_classes and any(records[index]["label"] == UNKNOWN_LABEL for index in ends):
        raise ValueError(f"TFDS dataset {dataset!r} has no labels in its split {split!r}")
    return TfdsImages(records, f"{dataset} {split}", size, settings)


def open_boxes(
    dataset: str, split: str, data_dir: str, num_classes: int, size: Size, settings: Preprocessing
) -> TfdsBoxes:
    """The same of a dataset to detect on, such as 'coco/2017', with a class of TFDS's for each of
    the model's.
    """
    builder = _find(dataset, data_dir)
    _check_features(dataset, builder, {"image": "Image", _OBJECTS: "Sequence"}, "a detector")
    objects = builder.info.features[_OBJECTS].feature
    for name in ("bbox", "label"):
        if name not in objects:
            raise ValueError(f"TFDS dataset {dataset!r} has objects without {name!r}")
    _check_classes(dataset, objects["label"].num_classes, num_classes)
    records = _read(builder, dataset, split, data_dir, {"image"})
    names = tuple(map(str, objects["label"].names))
    return TfdsBoxes(records, f"{dataset} {split}", size, settings, names)


def open_maps(
    dataset: str, split: str, data_dir: str, num_classes: int, size: Size, settings: Preprocessing
) -> TfdsMaps:
    """The same of a dataset to segment, 'scene_parse150' and those of its features; label maps are
    checked.
    """
    builder = _find(dataset, data_dir)
    _check_features(dataset, builder, {"image": "Image", _MAP: "Image"}, "a segmenter")
    records = _read(builder, dataset, split, data_dir, {"image", _MAP})
    name = f"{dataset} {split}"

    def find_problem(index: int) -> str | None:
        record = records[index]
        image, labels = (io.BytesIO(record[feature]) for feature in ("image", _MAP))
        return label_maps.find_problem(labels, f"{name}, image {index}", image, num_classes, True)

    label_maps.check_each(len(records), find_problem)
    names = tuple(map(str, range(num_classes)))
    return TfdsMaps(records, name, size, settings, names)


def _find(dataset: str, data_dir: str) -> Any:
    """TFDS's builder."""
    import tensorflow_datasets as tfds  # slow to import, and few runs need it

    try:
        return tfds.builder(dataset, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        name = dataset.partition("/")[0].partition(":")[0]
        near = difflib.get_close_matches(
            name, tfds.list_builders(with_community_datasets=False), n=1
        )
        advice = f": did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"config.evaluation.dataset: TFDS has no {dataset!r}{advice}") from error
    except AssertionError as error:  # a version that it lacks
        raise ValueError(f"TFDS can't build dataset {dataset!r}: {error}") from error


def _check_features(dataset: str, builder: Any, kinds: dict[str, str], whom: str) -> None:
    """Raises ValueError unless a dataset has features of these names and kinds."""
    import tensorflow_datasets as tfds

    features = dict((builder.info.features or {}).items())
    for name, kind in kinds.items():
        if not isinstance(features.get(name), getattr(tfds.features, kind)):
            several = name if name.endswith("s") else f"{name}s"
            raise ValueError(f"TFDS dataset {dataset!r} has no {several} to evaluate {whom} on")


def _check_classes(dataset: str, found: int, num_classes: int) -> None:
    if num_classes not in (0, found):
        raise ValueError(
            f"TFDS dataset {dataset!r} has {found} classes, but the model has {num_classes}"
        )


def _read(
    builder: Any, dataset: str, split: str, data_dir: str, files: set[str]
) -> Sequence[dict[str, Any]]:
    """Records of a split; features of these names are files as they are."""
    import tensorflow_datasets as tfds

    if not builder.is_prepared():
        raise ValueError(
            f"TFDS dataset {dataset!r} is not prepared {_where(data_dir)}: "
            f"{_how(dataset, data_dir)}"
        )
    try:
        return builder.as_data_source(
            split, decoders={name: tfds.decode.SkipDecoding() for name in files}
        )
    except NotImplementedError as error:
        raise ValueError(
            f"TFDS dataset {dataset!r} is prepared {_where(data_dir)}, but not as ArrayRecord: "
            f"{_how(dataset, data_dir)}"
        ) from error
    except ValueError as error:  # no such split
        raise ValueError(f"TFDS dataset {dataset!r}: {error}") from error


def _where(data_dir: str) -> str:
    return f"in {data_dir}" if data_dir else "in TFDS's own folder"


def _how(dataset: str, data_dir: str) -> str:
    place = f", data_dir={data_dir!r}" if data_dir else ""
    return (
        f"prepare it with tfds.builder({dataset!r}, file_format='array_record'{place})"
        ".download_and_prepare(), as docs/tutorials/own_vit.md tells"
    )
