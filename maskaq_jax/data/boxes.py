"""What there is to detect in a picture."""

from typing import NamedTuple, Protocol

import numpy as np

from maskaq_jax.data.dataset import NamedClasses
from maskaq_jax.data.preprocessing import Placement


class Boxes(NamedTuple):
    """The objects of a picture.

    Attributes:
      corners: [n, 4] float64 left, top, right and bottom, in the picture's own pixels.
      classes: [n] int32, of the model.
      areas: [n] float64 pixels that the objects cover, by which COCO calls them small or large.
      is_crowd: [n] bool, whether it is a region of many objects, in which detections count neither
        way.
    """

    corners: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    is_crowd: np.ndarray


def plain_boxes(corners: np.ndarray, classes: np.ndarray) -> Boxes:
    """Objects of which nothing more is known than [n, 4] corners and [n] classes."""
    corners = np.asarray(corners, np.float64).reshape(-1, 4)
    sides = corners[:, 2:] - corners[:, :2]
    classes = np.asarray(classes, np.int32)
    return Boxes(corners, classes, sides.prod(axis=1), np.zeros(len(corners), bool))


class BoxDataset(NamedClasses, Protocol):
    """Pictures to detect objects in; the label of an example is its number."""

    def boxes(self, index: int, /) -> Boxes:
        """What there is in an image."""

    def placement(self, index: int, /) -> Placement:
        """Where the picture lies in the model's image."""
