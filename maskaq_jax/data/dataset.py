"""Images to read by number, and their labels."""

from typing import Protocol

import numpy as np

from maskaq_jax.data.preprocessing import BrokenImageError
from maskaq_jax.models import Model
from maskaq_jax.models.protocol import Task
from maskaq_jax.schema import ConfigError

# An image, [height, width, channels] uint8, and its label. That is, by the model's task: the number
# of a class; [height, width] int32 of them; or the number of the image, by which a
# `boxes.BoxDataset` tells what there is to detect. -1 is where the class is unknown.
Example = tuple[np.ndarray, int | np.ndarray]
# The label of an image, or of a pixel, that has none.
UNKNOWN_LABEL = -1


class Dataset(Protocol):
    """Examples that several threads may read, in any order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example:
        """Raises BrokenImageError, or what the machine failed with."""


class NamedClasses(Dataset, Protocol):
    """Examples whose classes have names."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the model's classes, in their order."""


def label_shape(model: Model) -> tuple[int, ...]:
    """Shape of an image's label for a model: of a label map that of its images, else ()."""
    return model.input_shape[:2] if model.task == "segmentation" else ()


def check_task(field: str, has: str, model: Model, *tasks: Task) -> None:
    """Raises `ConfigError` unless a model is for one of the tasks that a dataset is for."""
    if model.task not in tasks:
        raise ConfigError(
            f"{field} has {has}, for {' and '.join(tasks)}, but the model's task is {model.task}"
        )


def check_readable(dataset: Dataset) -> None:
    """Raises OSError if no image can be read; where there are no labels, none is before training.

    Reads as many as it takes to find one that can.
    """
    broken = ""
    for index in range(len(dataset)):
        try:
            dataset[index]
        except BrokenImageError as error:
            broken = broken or f"no evaluation image can be read: {error}"
        else:
            return
    raise OSError(broken or "there are no evaluation images")


def check_colours(field: str, model: Model) -> None:
    """Raises `ConfigError` unless a model takes pictures as preprocessing makes them."""
    channels = model.input_shape[-1]
    if channels != 3:
        raise ConfigError(f"{field} has images of 3 channels; the model takes {channels}")
