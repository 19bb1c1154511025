"""Pictures to a model's input size, as timm, torchvision and transformers prepare them.

What belongs to a picture, its boxes and its label map, goes the same way: `place` says where.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image

from maskaq_jax import schema
from maskaq_jax.schema import NonNegativeInt, PositiveFraction, PositiveInt
from maskaq_jax.storage import failures

Interpolation = Literal["bicubic", "bilinear", "lanczos", "nearest"]
Resize = Literal["shorter", "squash", "fit"]
# Side of a model's images, or their height and width.
Size = int | tuple[int, int]

# What is beside a picture that is fitted into a model's images: ImageNet's mean, which becomes 0
# where processors pad with 0.
_BESIDE = (124, 116, 104)

# Formats that Pillow tells by their first bytes, but decodes only with another program's help.
_NOT_DECODED = ("BUFR", "EPS", "FPX", "GRIB", "HDF5", "MIC", "MPEG", "WMF")


class BrokenImageError(Exception):
    """An image that can't be read; the message names it."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How images become a model's size.

    Attributes:
      crop_ratio: share of the resized image that the central crop keeps; 1 where it is fitted.
      interpolation: of the resizing.
      resize: 'shorter' keeps the picture's shape and fills the model's images, as timm and
        torchvision do; 'squash' gives it the model's shape first, as many processors of Hugging
        Face do; 'fit' keeps its shape and all of it, at the top left, as those of detectors do.
      shortest_edge: of 'fit', pixels that the picture's shorter side gets at most; 0 for as many as
        there is room for.
      multiple: of 'fit', what both its sides are rounded down to a multiple of.
    """

    crop_ratio: PositiveFraction = 0.9
    interpolation: Interpolation = "bicubic"
    resize: Resize = schema.added("shorter")
    shortest_edge: NonNegativeInt = schema.added(0)
    multiple: PositiveInt = schema.added(1)

    def __post_init__(self) -> None:
        """Raises ValueError for what only one of the ways of resizing has."""
        if self.resize == "fit":
            if self.crop_ratio != 1:
                raise ValueError(
                    "resize 'fit' keeps the whole picture, so crop_ratio must be 1, got "
                    f"{self.crop_ratio}"
                )
        elif self.shortest_edge or self.multiple != 1:
            raise ValueError(
                f"shortest_edge and multiple are those of resize 'fit', but it is {self.resize!r}"
            )

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is cut off a picture, whatever its shape."""
        return self.resize != "shorter" and self.crop_ratio == 1


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a picture lies in a model's image, the canvas.

    Attributes:
      picture: its height and width.
      resized: the same on the canvas.
      top: rows of the resized picture that are cut off above the canvas.
      left: columns, on its left.
    """

    picture: tuple[int, int]
    resized: tuple[int, int]
    top: int
    left: int

    def boxes_on_canvas(self, boxes: np.ndarray) -> np.ndarray:
        """[n, 4] left, top, right and bottom in the picture's pixels -> in the canvas's."""
        return boxes * self._scale - self._cut_off

    def boxes_on_picture(self, boxes: np.ndarray) -> np.ndarray:
        """The way back."""
        return (boxes + self._cut_off) / self._scale

    @property
    def _cut_off(self) -> np.ndarray:
        """[4] canvas pixels that are cut off on the left, above, and so again."""
        return np.array([self.left, self.top] * 2)

    @property
    def _scale(self) -> np.ndarray:
        """[4] canvas pixels a picture's pixel."""
        (height, width), (new_height, new_width) = self.picture, self.resized
        return np.array([new_width / width, new_height / height] * 2)


@functools.cache
def readable_endings() -> frozenset[str]:
    """Endings of the files that Pillow decodes, such as '.jpeg'."""
    formats = Image.registered_extensions()
    return frozenset(
        ending
        for ending, name in formats.items()
        if name in Image.OPEN and name not in _NOT_DECODED
    )


def place(picture: tuple[int, int], size: Size, settings: Preprocessing) -> Placement:
    """Where a picture goes.

    Args:
      picture: its height and width.
      size: of the model's images.
      settings: how it is resized and cropped.
    """
    height, width = picture
    rows, columns = (size, size) if isinstance(size, int) else size
    if settings.resize == "fit":
        return Placement(picture, _fitted(picture, (rows, columns), settings), 0, 0)
    inside = tuple(math.floor(side / settings.crop_ratio) for side in (rows, columns))
    if settings.resize == "squash":
        resized = inside[0], inside[1]
    else:  # The longer side is rounded down, as torchvision does it.
        scale = max(Fraction(inside[0], height), Fraction(inside[1], width))
        resized = math.floor(height * scale), math.floor(width * scale)
    top, left = round((resized[0] - rows) / 2), round((resized[1] - columns) / 2)
    return Placement(picture, resized, top, left)


def _fitted(
    picture: tuple[int, int], canvas: tuple[int, int], settings: Preprocessing
) -> tuple[int, int]:
    """Height and width of a whole picture on a canvas.

    As transformers' processors of detectors: the shorter side is rounded, the longer one rounded
    down, and both of them to multiples.
    """
    shorter = min(picture)
    scale = min(Fraction(canvas[0], picture[0]), Fraction(canvas[1], picture[1]))
    if settings.shortest_edge:
        scale = min(scale, Fraction(settings.shortest_edge, shorter))
    sides = [round(side * scale) if side == shorter else int(side * scale) for side in picture]
    height, width = (
        max(side - side % settings.multiple, min(side, settings.multiple), 1) for side in sides
    )
    return height, width


def preprocess(image: Image.Image, size: Size, settings: Preprocessing) -> np.ndarray:
    """Resizes a picture to a model's images, and crops the centre or fills what is beside it.

    Args:
      image: of any size and mode.
      size: side of the result, in pixels, or its height and width.
      settings: how it is resized and cropped.

    Returns:
      [height, width, 3] uint8.

    Raises:
      ValueError: its pixels have more than 8 bits, which would be cut off at white, or it has none.
    """
    if not (image.width and image.height):
        raise ValueError(f"a picture of {image.width} x {image.height} has no pixels")
    if image.mode == "F" or image.mode.startswith("I"):
        raise ValueError(f"pixels of more than 8 bits (mode {image.mode}): convert it to 8")
    resampling = Image.Resampling[settings.interpolation.upper()]
    return _put(image.convert("RGB"), size, settings, resampling, _BESIDE)


def preprocess_labels(
    labels: Image.Image, size: Size, settings: Preprocessing, beside: int
) -> np.ndarray:
    """The label map of a picture, taken the same way; every pixel keeps the label of one.

    Args:
      labels: of mode L.
      size: of the model's images.
      settings: how the picture is resized and cropped.
      beside: label of what lies beside it.

    Returns:
      [height, width] uint8.
    """
    return _put(labels, size, settings, Image.Resampling.NEAREST, beside)


def _put(
    image: Image.Image,
    size: Size,
    settings: Preprocessing,
    resampling: Image.Resampling,
    beside: int | tuple[int, ...],
) -> np.ndarray:
    rows, columns = (size, size) if isinstance(size, int) else size
    placed = place((image.height, image.width), size, settings)
    resized = image.resize((placed.resized[1], placed.resized[0]), resampling)
    canvas = Image.new(image.mode, (columns, rows), beside)
    canvas.paste(resized, (-placed.left, -placed.top))
    return np.asarray(canvas)


def read_image(
    file: Path | BinaryIO,
    name: str,
    size: Size,
    settings: Preprocessing,
    picture: tuple[int, int] | None = None,
) -> np.ndarray:
    """Decodes and preprocesses an image file.

    Args:
      file: a path, or the file's bytes.
      name: what the error calls it.
      size: as of `preprocess`.
      settings: the same.
      picture: height and width that it must have, where other files count on them.

    Returns:
      [height, width, 3] uint8.

    Raises:
      BrokenImageError: it is not an image that can be decoded.
      MemoryError, OSError: the machine failed, and nothing is said of the image.
    """
    with opened(file, name) as image:
        if picture and (image.height, image.width) != picture:
            told = f"{picture[1]} x {picture[0]}"
            raise ValueError(f"it has {image.width} x {image.height} pixels, not {told}")
        return preprocess(image, size, settings)


@contextlib.contextmanager
def opened(file: Path | BinaryIO, told: str) -> Iterator[Image.Image]:
    """A picture file; whatever goes wrong with it, inside too, is a `BrokenImageError`.

    Args:
      file: a path, or the file's bytes.
      told: what the error says before the reason.

    Raises:
      BrokenImageError: it is not an image that can be decoded.
      MemoryError, OSError: the machine failed, and nothing is said of the image.
    """
    try:
        with Image.open(file) as image:
            yield image
    except Exception as error:  # whatever the decoders of damaged files raise
        # What may not be read will never be.
        if failures.is_of_machine(error) and not isinstance(error, PermissionError):
            raise
        what = failures.what_it_is(file) if isinstance(file, Path) else None
        raise BrokenImageError(f"{told}: {what or error}") from error
