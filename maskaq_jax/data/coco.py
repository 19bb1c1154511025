"""Pictures and their boxes, as COCO's files have them: a folder, and a JSON of its instances."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maskaq_jax.data import preprocessing
from maskaq_jax.data.boxes import BoxDataset, Boxes
from maskaq_jax.data.dataset import Example, check_colours, check_task
from maskaq_jax.data.preprocessing import Placement, Preprocessing
from maskaq_jax.models import Model
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import notes, paths
from maskaq_jax.storage.notes import Tell

COCO = "coco"
_FIELD = f"config.evaluation.dataset {COCO!r}"
# Pixels that a box may reach over the border of its picture: annotations are rounded.
_MOST_OUTSIDE = 1.0


@dataclasses.dataclass(frozen=True)
class Coco:
    """Pictures to evaluate a detector on.

    Attributes:
      path: of the folder that file names of the JSON are below; `~` is the user's own.
      labels: the JSON, such as `annotations/instances_val2017.json`.
      preprocessing: how pictures become the model's size, nothing of them cut off.
    """

    path: str
    labels: str
    preprocessing: Preprocessing

    @property
    def name(self) -> str:
        """What `results.json` calls it."""
        return f"{COCO} {self.path} {self.labels}"

    def check(self, model: Model) -> None:
        """Raises `ConfigError` unless there are such files, and the model detects in colours."""
        check_task(_FIELD, "boxes", model, "detection")
        if missing := paths.missing_folder("config.evaluation.path", self.path):
            raise ConfigError(missing)
        if not self.labels:
            raise ConfigError(
                f"config.evaluation.labels is missing: {_FIELD} has its boxes in a JSON, such as "
                "annotations/instances_val2017.json"
            )
        file = paths.expanded_path(self.labels)
        if not file.is_file():
            raise ConfigError(f"config.evaluation.labels: {paths.missing_file(file)}")
        check_keeps_all(self.preprocessing)
        check_colours(_FIELD, model)

    def open(self, model: Model, tell: Tell = notes.log) -> BoxDataset:
        """Reads the JSON, as `open_coco` does."""
        return open_coco(
            paths.expanded_path(self.path),
            paths.expanded_path(self.labels),
            model.num_classes,
            model.input_shape[:2],
            self.preprocessing,
            tell,
        )


def check_keeps_all(settings: Preprocessing) -> None:
    """Raises `ConfigError` where a part of a picture, and objects with it, would be cut off."""
    if not settings.keeps_all:
        raise ConfigError(
            "config.evaluation.preprocessing must keep the whole picture, with its boxes: resize "
            f"'fit' or 'squash' and crop_ratio 1.0, got {settings.resize!r} and "
            f"{settings.crop_ratio}"
        )


class Picture(NamedTuple):
    """A file, and what is to be found in it.

    Attributes:
      path: of the file.
      size: height and width that the JSON gives it.
      boxes: its objects.
    """

    path: Path
    size: tuple[int, int]
    boxes: Boxes


@dataclasses.dataclass(frozen=True)
class CocoPictures:
    """Pictures that are read when they are asked for, and what there is in them.

    Attributes:
      pictures: in the JSON's order.
      class_names: of the model's classes.
      size: height and width of the model's images.
      settings: how pictures are resized.
    """

    pictures: tuple[Picture, ...]
    class_names: tuple[str, ...]
    size: tuple[int, int]
    settings: Preprocessing

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int, /) -> Example:
        path, size, _ = self.pictures[index]
        image = preprocessing.read_image(path, str(path), self.size, self.settings, picture=size)
        return image, index

    def boxes(self, index: int, /) -> Boxes:
        """What there is in a picture."""
        return self.pictures[index].boxes

    def placement(self, index: int, /) -> Placement:
        """Where it lies in the model's image."""
        return preprocessing.place(self.pictures[index].size, self.size, self.settings)


def open_coco(
    root: Path,
    file: Path,
    num_classes: int,
    size: tuple[int, int],
    settings: Preprocessing,
    tell: Tell = notes.log,
) -> BoxDataset:
    """Reads COCO's JSON of instances; pictures are only looked for.

    Args:
      root: folder that its file names are below.
      file: the JSON, with `images`, `annotations` and `categories`; of annotations `area` and
        `iscrowd` may be missing.
      num_classes: of the model. As many as there are categories: classes are these, in the order of
        their ids. More than the largest id: classes are the ids, as DETR and YOLOS have them.
      size: height and width of the model's images.
      settings: how pictures are resized.
      tell: is told how classes are numbered.

    Raises:
      ValueError: it is no such file; pictures are missing, categories don't fit the model, or a box
        lies outside its picture.
    """
    content = _read(file)
    class_of, names = _number_categories(file, content["categories"], num_classes, tell)
    images = _read_images(file, content["images"])
    missing = [image["file_name"] for image in images.values() if not _is_there(root, image)]
    if missing:
        raise ValueError(
            f"{file}: {len(missing)} of its {len(images)} images are missing from {root}: "
            f"{notes.some(sorted(missing))}"
        )
    objects: dict[Any, list[tuple[list[float], int, float, bool]]] = {key: [] for key in images}
    for annotation in content["annotations"]:
        image = images.get(_value(file, annotation, "image_id", int))
        if image is None:
            raise ValueError(f"{file}: {_told(annotation)} is of no image that there is")
        objects[image["id"]].append(_read_object(file, annotation, image, class_of))
    if not any(objects.values()):
        raise ValueError(f"{file} holds no boxes")
    pictures = tuple(
        Picture(root / image["file_name"], (image["height"], image["width"]), _stack(objects[key]))
        for key, image in images.items()
    )
    return CocoPictures(pictures, names, size, settings)


def _is_there(root: Path, image: dict[str, Any]) -> bool:
    return (root / image["file_name"]).is_file()


def _stack(objects: list[tuple[list[float], int, float, bool]]) -> Boxes:
    corners, classes, areas, is_crowd = zip(*objects, strict=True) if objects else ([], [], [], [])
    return Boxes(
        np.asarray(corners, np.float64).reshape(-1, 4),
        np.asarray(classes, np.int32),
        np.asarray(areas, np.float64),
        np.asarray(is_crowd, bool),
    )


def _read(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Lists of objects, by the three names that count."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not readable: {error}") from error
    for name in ("images", "annotations", "categories"):
        found = content.get(name) if isinstance(content, dict) else None
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise ValueError(
                f"{file} is no JSON of COCO's instances: it has no list of objects {name!r}"
            )
    return content


def _number_categories(
    file: Path, categories: list[dict[str, Any]], num_classes: int, tell: Tell
) -> tuple[dict[int, int], tuple[str, ...]]:
    """The model's class by the category's id, and names of the model's classes."""
    names = {
        _value(file, category, "id", int): str(category.get("name", category["id"]))
        for category in categories
    }
    ids = sorted(names)
    if not ids:
        raise ValueError(f"{file} has no categories")
    if len(ids) < len(categories):
        raise ValueError(f"{file}: two categories have the same id")
    if len(set(names.values())) < len(ids):  # names don't tell them apart
        names = {number: f"{name} ({number})" for number, name in names.items()}
    if len(ids) == num_classes:
        if ids != list(range(num_classes)):
            tell(f"{file}: the model's classes are taken as its categories in the order of ids")
        return {number: place for place, number in enumerate(ids)}, tuple(names[i] for i in ids)
    if ids[0] >= 0 and ids[-1] < num_classes:
        tell(f"{file}: the model's classes are taken as ids of its categories")
        numbered = tuple(names.get(number, str(number)) for number in range(num_classes))
        return {number: number for number in ids}, numbered
    raise ValueError(
        f"{file} has {len(ids)} categories with ids from {ids[0]} to {ids[-1]}, but the model has "
        f"{num_classes} classes: it takes one for each category, or for each id up to the largest"
    )


def _read_images(file: Path, images: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """By id, in the file's order."""
    found: dict[int, dict[str, Any]] = {}
    for image in images:
        number = _value(file, image, "id", int)
        _value(file, image, "file_name", str)
        if min(_value(file, image, side, int) for side in ("height", "width")) < 1:
            raise ValueError(f"{file}: image {image['file_name']} has no pixels")
        if number in found:
            raise ValueError(f"{file}: two images have the id {number}")
        found[number] = image
    if not found:
        raise ValueError(f"{file} has no images")
    return found


def _read_object(
    file: Path, annotation: dict[str, Any], image: dict[str, Any], class_of: dict[int, int]
) -> tuple[list[float], int, float, bool]:
    """Corners, class, area and whether it is a crowd."""
    category = _value(file, annotation, "category_id", int)
    if category not in class_of:
        raise ValueError(
            f"{file}: {_told(annotation)} is of category {category}, which there is none of"
        )
    box = annotation.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))):
        raise ValueError(f"{file}: {_told(annotation)} has no box of four numbers: {box!r}")
    left, top, width, height = map(float, box)
    right, bottom = left + width, top + height
    beyond = max(-left, -top, right - image["width"], bottom - image["height"])
    if min(width, height) < 0 or beyond > _MOST_OUTSIDE:
        raise ValueError(
            f"{file}: {_told(annotation)} has a box outside its image {image['file_name']} of "
            f"{image['width']} x {image['height']} pixels: {box}"
        )
    area = annotation.get("area", width * height)
    if not _is_finite(area):
        raise ValueError(f"{file}: {_told(annotation)} has an area that is no number: {area!r}")
    return [left, top, right, bottom], class_of[category], area, bool(annotation.get("iscrowd"))


def _told(annotation: dict[str, Any]) -> str:
    return f"annotation {annotation.get('id', 'without id')}"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _value(file: Path, item: dict[str, Any], name: str, kind: type) -> Any:
    value = item.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        told = str(item)
        told = told if len(told) <= 100 else f"{told[:100]}..."
        raise ValueError(f"{file}: {name!r} is missing, or another type, in {told}")
    return value
