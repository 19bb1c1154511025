"""Pictures to a model's input size, as timm and torchvision prepare them for evaluation."""

import dataclasses
import math
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image

from maskaq_jax import failures
from maskaq_jax.ranges import PositiveShare

Interpolation = Literal["bicubic", "bilinear"]


class BrokenImageError(Exception):
    """An image that can't be read; the message names it."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How images become a model's size.

    Attributes:
      crop_ratio: share of the resized image's shorter side that the central crop keeps.
      interpolation: of the resizing.
    """

    crop_ratio: PositiveShare = 0.9
    interpolation: Interpolation = "bicubic"


def preprocess(image: Image.Image, size: int, settings: Preprocessing) -> np.ndarray:
    """Resizes the shorter side to `floor(size / crop_ratio)` and crops the centre.

    Args:
      image: of any size and mode.
      size: side of the result, in pixels.
      settings: crop ratio and interpolation.

    Returns:
      [size, size, 3] uint8.

    Raises:
      ValueError: its pixels have more than 8 bits, which would be cut off at white.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        raise ValueError(f"pixels of more than 8 bits (mode {image.mode}): convert it to 8")
    image = image.convert("RGB")
    width, height = image.size
    shorter, smallest = math.floor(size / settings.crop_ratio), min(width, height)
    # The longer side is rounded down, as torchvision does it.
    width, height = shorter * width // smallest, shorter * height // smallest
    image = image.resize((width, height), Image.Resampling[settings.interpolation.upper()])
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def read_image(file: Path | BinaryIO, name: str, size: int, settings: Preprocessing) -> np.ndarray:
    """Decodes and preprocesses an image file.

    Args:
      file: a path, or the file's bytes.
      name: what the error calls it.
      size: as of `preprocess`.
      settings: the same.

    Returns:
      [size, size, 3] uint8.

    Raises:
      BrokenImageError: it is not an image that can be decoded.
      MemoryError, OSError: the machine failed, and nothing is said of the image.
    """
    try:
        with Image.open(file) as image:
            return preprocess(image, size, settings)
    except Exception as error:  # whatever the decoders of damaged files raise
        # What may not be read will never be.
        if failures.is_of_machine(error) and not isinstance(error, PermissionError):
            raise
        raise BrokenImageError(f"{name}: {error}") from error
