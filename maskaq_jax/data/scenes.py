"""Scenes of garments, drawn from a seed: what detectors and segmenters are tried on.

A scene has one to four garments of Fashion-MNIST, of several sizes, on a black canvas of 96 pixels;
later ones lie in front. Any scene is drawn alone, by its number, and there is nothing to download:
garments are those that ship with the package, of the split's own.

Black is what the images of Fashion-MNIST stand on, so background is easy to tell: a detector has no
class for it, but of the eleven that mIoU is the mean of it is one.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from maskaq_jax import schema
from maskaq_jax.data import boxes
from maskaq_jax.data.boxes import Boxes
from maskaq_jax.data.dataset import Dataset, Example, check_task
from maskaq_jax.data.embedded import load_embedded
from maskaq_jax.data.preprocessing import Placement
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import Model
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import notes
from maskaq_jax.storage.notes import Tell

SCENES = "scenes"
CANVAS = 96
GARMENTS = (
    *("T-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
# Classes of a label map; garment c has number c + 1.
MAPPED = ("background", *GARMENTS)

_FIELD = f"config.evaluation.dataset {SCENES!r}"
_SEED = 0
# Of every split, its number among the keys of draws. "training" is for those who train a teacher
# on all of Fashion-MNIST's training images, "real" is of the few that ship.
SPLITS = {"training": 0, "validation": 1, "test": 2, "real": 3}
_EVALUATED = ("test", "validation")
NUM_SCENES = 1000

MOST_GARMENTS = 4
# Longer side of a garment, in pixels.
_SIDES = (28, 56)
# Places that are drawn for each garment, of which it takes the freest.
_PLACES = 4
# Of a garment's pixels, the share that must be seen.
_LEAST_SEEN = 0.5
# Darkest grey of a garment; what is darker outside it is noise.
_DARKEST = 8
# For a garment: which one, whether it is flipped, its size, and rows and columns of places.
_DRAWS = 3 + 2 * _PLACES


class Scene(NamedTuple):
    """A scene and what is in it.

    Attributes:
      image: [96, 96] uint8.
      corners: [n, 4] int64 left, top, right and bottom of what is seen of each garment, which
        reaches up to right and bottom.
      classes: [n] int32, 0 to 9.
      areas: [n] int64 pixels that are seen.
      label_map: [96, 96] int32, of `MAPPED`.
    """

    image: np.ndarray
    corners: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    label_map: np.ndarray


def draw_scene(garments: np.ndarray, labels: np.ndarray, key: Sequence[int]) -> Scene:
    """Draws a scene; the same arguments give the same one, on any machine.

    Garments of which less than half would be seen are left out.

    Args:
      garments: [N, 28, 28] uint8.
      labels: [N] their classes, 0 to 9.
      key: seed, number of the split (`SPLITS`) and of the scene.
    """
    draws = _uniform(key, 1 + MOST_GARMENTS * _DRAWS)
    count = 1 + int(draws[0] * MOST_GARMENTS)
    placed: list[PlacedGarment] = []
    for own in draws[1:].reshape(MOST_GARMENTS, _DRAWS)[:count]:
        placed.append(_draw_garment(garments, labels, own, placed))
    return compose_scene(placed)


class PlacedGarment(NamedTuple):
    """A garment and its place.

    Attributes:
      grey: [height, width] uint8.
      silhouette: [height, width] bool, where it hides what is behind it.
      label: its class, 0 to 9.
      top: its first row on the canvas.
      left: its first column.
    """

    grey: np.ndarray
    silhouette: np.ndarray
    label: int
    top: int
    left: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the canvas."""
        height, width = self.grey.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def compose_scene(objects: Sequence[PlacedGarment]) -> Scene:
    """Garments on a canvas, later ones in front, without those of which less than half is seen."""
    owners = _paint(objects)
    # Those in front of what is left out are in front of nothing less: nobody else disappears.
    objects = [one for place, one in enumerate(objects) if _is_seen(one, owners == place)]
    owners = _paint(objects)
    image, label_map = np.zeros((2, CANVAS, CANVAS), np.uint8)
    for place, one in enumerate(objects):
        is_own = owners == place
        image[is_own] = one.grey[is_own[one.window]]
        label_map[is_own] = one.label + 1
    seen = [np.nonzero(owners == place) for place in range(len(objects))]
    corners = [(x.min(), y.min(), x.max() + 1, y.max() + 1) for y, x in seen]
    return Scene(
        image,
        np.array(corners, np.int64),
        np.array([one.label for one in objects], np.int32),
        np.array([len(y) for y, _ in seen]),
        label_map.astype(np.int32),
    )


def _uniform(key: Sequence[int], count: int) -> np.ndarray:
    """[count] float64 from 0 to below 1: of bits, which NumPy promises to leave as they are."""
    bits = np.random.PCG64(np.random.SeedSequence(tuple(key))).random_raw(count)
    return (bits >> np.uint64(11)) * 2.0**-53


def _draw_garment(
    garments: np.ndarray, labels: np.ndarray, draws: np.ndarray, others: Sequence[PlacedGarment]
) -> PlacedGarment:
    number = int(draws[0] * len(garments))
    garment, silhouette = _cut_out(garments[number])
    if draws[1] < 0.5:
        garment, silhouette = garment[:, ::-1], silhouette[:, ::-1]
    longer = _SIDES[0] + int(draws[2] * (_SIDES[1] + 1 - _SIDES[0]))
    height, width = (max(1, round(longer * side / max(garment.shape))) for side in garment.shape)
    grey = _resize(garment, height, width)
    mask = _resize(np.where(silhouette, 255, 0).astype(np.uint8), height, width) > 127
    places = [
        PlacedGarment(
            grey,
            mask,
            int(labels[number]),
            int(row * (CANVAS + 1 - height)),
            int(column * (CANVAS + 1 - width)),
        )
        for row, column in draws[3:].reshape(_PLACES, 2)
    ]
    return min(places, key=lambda place: sum(_overlap(place, other) for other in others))


def _cut_out(garment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[height, width] uint8 and bool: a garment without what is beside it, and its silhouette.

    Pixels between others in their row and in their column are its own, however dark.
    """
    is_bright = garment > _DARKEST
    silhouette = np.ones_like(is_bright)
    for axis in (0, 1):
        before = np.logical_or.accumulate(is_bright, axis=axis)
        behind = np.flip(np.logical_or.accumulate(np.flip(is_bright, axis), axis=axis), axis)
        silhouette &= before & behind
    rows, columns = (np.flatnonzero(is_bright.any(axis=axis)) for axis in (1, 0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return garment[window], silhouette[window]


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinearly, in Pillow's integers, which are the same everywhere."""
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    return np.asarray(resized)


def _overlap(one: PlacedGarment, other: PlacedGarment) -> int:
    """Pixels that the windows of both share."""
    sides = [
        max(0, min(first.stop, second.stop) - max(first.start, second.start))
        for first, second in zip(one.window, other.window, strict=True)
    ]
    return sides[0] * sides[1]


def _paint(objects: Sequence[PlacedGarment]) -> np.ndarray:
    """[96, 96] int: which object is seen at a pixel; -1 where there is none."""
    owners = np.full((CANVAS, CANVAS), -1)
    for place, one in enumerate(objects):
        owners[one.window][one.silhouette] = place
    return owners


def _is_seen(one: PlacedGarment, is_own: np.ndarray) -> bool:
    return bool(is_own.sum() >= _LEAST_SEEN * one.silhouette.sum() > 0)


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Scenes to evaluate a detector or a segmenter on.

    Attributes:
      split: 'test', or 'validation' to choose settings on.
    """

    split: str

    @property
    def name(self) -> str:
        """What `results.json` calls it."""
        return f"{SCENES} {self.split}"

    def check(self, model: Model) -> None:
        """Raises `ConfigError` unless there are such scenes, and the model is one for them."""
        schema.choose("config.evaluation.split", self.split, _EVALUATED)
        check_task(_FIELD, "boxes and label maps", model, "detection", "segmentation")
        height, width, _ = model.input_shape
        classes = len(GARMENTS) if model.task == "detection" else len(MAPPED)
        if (height, width) != (CANVAS, CANVAS) or model.num_classes != classes:
            raise ConfigError(
                f"{_FIELD} has images of {CANVAS} x {CANVAS} pixels and {classes} classes for "
                f"{model.task}; the model takes {height} x {width} and has {model.num_classes}"
            )

    def open(self, model: Model, tell: Tell = notes.log) -> Dataset:
        """Reads the garments; scenes are drawn when they are asked for."""
        del tell
        garments, labels = load_embedded(self.split, 1)
        kind = SceneBoxes if model.task == "detection" else SceneMaps
        return kind(garments[..., 0], labels, SPLITS[self.split], model.input_shape[-1])


@dataclasses.dataclass(frozen=True, eq=False)
class _Drawn:
    """Scenes by their numbers.

    Attributes:
      garments: [N, 28, 28] uint8.
      labels: [N] their classes.
      split: number of the split.
      num_channels: of the images.
    """

    garments: np.ndarray
    labels: np.ndarray
    split: int
    num_channels: int

    def __len__(self) -> int:
        return NUM_SCENES

    def scene(self, index: int) -> Scene:
        """The scene of a number; raises IndexError for one that there isn't."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return draw_scene(self.garments, self.labels, (_SEED, self.split, index))


class SceneBoxes(_Drawn):
    """Scenes for a detector."""

    class_names = GARMENTS

    def __getitem__(self, index: int, /) -> Example:
        return _with_channels(self.scene(index).image, self.num_channels), index

    def boxes(self, index: int, /) -> Boxes:
        """The garments of a scene."""
        scene = self.scene(index)
        return boxes.plain_boxes(scene.corners, scene.classes)._replace(
            areas=scene.areas.astype(np.float64)
        )

    def placement(self, index: int, /) -> Placement:
        """A scene is as large as the model's images."""
        del index
        return Placement((CANVAS, CANVAS), (CANVAS, CANVAS), 0, 0)


class SceneMaps(_Drawn):
    """Scenes for a segmenter."""

    class_names = MAPPED

    def __getitem__(self, index: int, /) -> Example:
        scene = self.scene(index)
        return _with_channels(scene.image, self.num_channels), scene.label_map


def _with_channels(image: np.ndarray, num_channels: int) -> np.ndarray:
    """[..., channels] uint8, the grey value on every channel."""
    return np.repeat(image[..., None], num_channels, axis=-1)


@dataclasses.dataclass(frozen=True)
class ScenesReal:
    """Scenes of garments that the teachers were trained on: the samples of the method 'real'.

    Attributes:
      num_samples: how many of them.
      pixels: their normalisation.
    """

    num_samples: int
    pixels: Pixels

    def check(self, model: Model) -> None:
        """Raises `ConfigError` unless the model takes images of that size."""
        height, width, _ = model.input_shape
        if (height, width) != (CANVAS, CANVAS):
            raise ConfigError(
                f"config.method 'real' trains on scenes of {CANVAS} x {CANVAS} pixels, but the "
                f"model takes {height} x {width}: name a folder of images by config.samples.real"
            )

    def read(self, model: Model, tell: Tell = notes.log) -> np.ndarray:
        """Draws them, [num_samples, 96, 96, channels] float32, normalised."""
        del tell  # nothing is passed over
        garments, labels = load_embedded("real", 1)
        key = _SEED, SPLITS["real"]
        scenes = [
            draw_scene(garments[..., 0], labels, (*key, index)).image
            for index in range(self.num_samples)
        ]
        return self.pixels.from_bytes(_with_channels(np.stack(scenes), model.input_shape[-1]))
