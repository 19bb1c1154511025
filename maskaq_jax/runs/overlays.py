"""Pictures with what a detector or a segmenter finds drawn in."""

import colorsys
from typing import Any

import numpy as np

from maskaq_jax.models.protocol import Task

# Detections that are drawn have at least this probability.
_LEAST_SCORE = 0.5
# Of a label map's colours over a picture.
_OPACITY = 0.5
# From one colour to the next, in turns of the colour wheel: neighbours in number are far apart.
_TURN = 0.618034


def draw_outputs(task: Task, outputs: Any, pictures: np.ndarray) -> np.ndarray | None:
    """Draws a model's outputs for pictures, each class in its colour.

    Args:
      task: of the model.
      outputs: as it gives them.
      pictures: [B, height, width, 3] uint8.

    Returns:
      [B, height, width, 3] uint8; None of a classifier, whose outputs are in no place.
    """
    if task == "segmentation":
        maps = np.asarray(outputs).argmax(axis=-1)
        return np.stack([draw_label_map(*one) for one in zip(pictures, maps, strict=True)])
    if task == "detection":
        logits, boxes = (np.asarray(outputs[name], np.float64) for name in ("logits", "pred_boxes"))
        return np.stack([_draw_found(*one) for one in zip(pictures, logits, boxes, strict=True)])
    return None


def draw_boxes(picture: np.ndarray, corners: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Outlines boxes, a pixel thick and inside of them.

    Args:
      picture: [height, width, 3] uint8.
      corners: [n, 4] left, top, right and bottom in pixels; a box reaches up to right and bottom.
      classes: [n] int.

    Returns:
      [height, width, 3] uint8.
    """
    drawn = np.array(picture)
    height, width, _ = picture.shape
    for box, label in zip(np.asarray(corners), np.asarray(classes), strict=True):
        # The first and the last pixel of it that there is, in rows and in columns.
        edges = np.round(box).astype(int) - [0, 0, 1, 1]
        left, top, right, bottom = np.clip(edges, 0, [width - 1, height - 1] * 2)
        right, bottom = max(left, right), max(top, bottom)
        drawn[[top, bottom], left : right + 1] = colour_of(int(label))
        drawn[top : bottom + 1, [left, right]] = colour_of(int(label))
    return drawn


def draw_label_map(picture: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    """Lays the colours of classes over a picture.

    Args:
      picture: [height, width, 3] uint8.
      label_map: [height, width] int, -1 where the picture is left as it is.

    Returns:
      [height, width, 3] uint8.
    """
    colours = np.array([colour_of(label) for label in range(max(0, label_map.max()) + 1)])
    mixed = (1 - _OPACITY) * picture + _OPACITY * colours[np.maximum(label_map, 0)]
    return np.where(label_map[..., None] < 0, picture, mixed.round()).astype(np.uint8)


def colour_of(label: int) -> tuple[int, int, int]:
    """Red, green and blue of a class, 0 to 255."""
    red, green, blue = colorsys.hsv_to_rgb(label * _TURN % 1, 0.8, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_found(picture: np.ndarray, logits: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Outlines what [tokens, classes + 1] logits and [tokens, 4] boxes find."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = (odds / odds.sum(axis=1, keepdims=True))[:, :-1]
    is_found = probabilities.max(axis=1) >= _LEAST_SCORE
    height, width, _ = picture.shape
    centres, sides = boxes[is_found, :2], boxes[is_found, 2:]
    corners = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    classes = probabilities[is_found].argmax(axis=1)
    return draw_boxes(picture, corners * [width, height, width, height], classes)
