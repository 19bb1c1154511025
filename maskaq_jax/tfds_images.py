"""Labelled images of TensorFlow Datasets, read from ArrayRecord files without TensorFlow."""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from maskaq_jax import preprocessing
from maskaq_jax.data import UNKNOWN_LABEL, Dataset, Example
from maskaq_jax.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class TfdsImages:
    """A split's images and labels, each read when it is asked for.

    Attributes:
      records: of the split, with the image's file as it is.
      name: of dataset and split, for errors.
      size: side the images are made to.
      settings: crop ratio and interpolation.
    """

    records: Sequence[dict[str, Any]]
    name: str
    size: int
    settings: Preprocessing

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int, /) -> Example:
        record, name = self.records[index], f"{self.name}, image {index}"
        file = io.BytesIO(record["image"])
        return preprocessing.read_image(file, name, self.size, self.settings), record["label"]


def open_split(
    dataset: str, split: str, data_dir: str, num_classes: int, size: int, settings: Preprocessing
) -> Dataset:
    """Opens a prepared dataset, without reading its images.

    Args:
      dataset: TFDS's name of it, such as 'imagenet2012' or 'imagenet_v2/matched-frequency'.
      split: such as 'validation'; TFDS's slices ('validation[:1000]') work too.
      data_dir: where it was prepared; empty for TFDS's own place.
      num_classes: classes of the model; 0 for a model without classifier.
      size: side the images are made to.
      settings: crop ratio and interpolation.

    Returns:
      Images that are decoded when they are asked for, and their labels.

    Raises:
      ValueError: no such dataset or split, not prepared as ArrayRecord, without images or labels,
        or of another number of classes.
    """
    import tensorflow_datasets as tfds  # slow to import, and few runs need it

    try:
        builder = tfds.builder(dataset, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(f"TFDS knows no dataset {dataset!r}") from error
    except AssertionError as error:  # a version that it lacks
        raise ValueError(f"TFDS can't build dataset {dataset!r}: {error}") from error
    features = dict((builder.info.features or {}).items())
    for name, kind in (("image", tfds.features.Image), ("label", tfds.features.ClassLabel)):
        if not isinstance(features.get(name), kind):
            raise ValueError(f"TFDS dataset {dataset!r} has no {name}s to evaluate a classifier on")
    found = features["label"].num_classes
    if num_classes not in (0, found):
        raise ValueError(
            f"TFDS dataset {dataset!r} has {found} classes, but the model has {num_classes}"
        )
    if not builder.is_prepared():
        raise ValueError(
            f"TFDS dataset {dataset!r} is not prepared {_where(data_dir)}: "
            f"{_how(dataset, data_dir)}"
        )
    try:
        records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise ValueError(
            f"TFDS dataset {dataset!r} is prepared {_where(data_dir)}, but not as ArrayRecord: "
            f"{_how(dataset, data_dir)}"
        ) from error
    except ValueError as error:  # no such split
        raise ValueError(f"TFDS dataset {dataset!r}: {error}") from error
    # Splits may be added, as in 'validation+test': one of them may lack labels.
    ends = {0, len(records) - 1} if len(records) else set()
    if num_classes and any(records[index]["label"] == UNKNOWN_LABEL for index in ends):
        raise ValueError(f"TFDS dataset {dataset!r} has no labels in its split {split!r}")
    return TfdsImages(records, f"{dataset} {split}", size, settings)


def _where(data_dir: str) -> str:
    return f"in {data_dir}" if data_dir else "in TFDS's own folder"


def _how(dataset: str, data_dir: str) -> str:
    place = f", data_dir={data_dir!r}" if data_dir else ""
    return (
        f"prepare it with tfds.builder({dataset!r}, file_format='array_record'{place})"
        ".download_and_prepare(), as the README tells"
    )
