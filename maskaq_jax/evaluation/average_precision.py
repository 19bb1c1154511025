"""COCO's average precision of boxes, by faster-coco-eval."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from maskaq_jax.data.boxes import Boxes

_AREAS = ("all", "small", "medium", "large")
_COUNTS = (1, 10, 100)
# Of the ten from 0.5 to 0.95, those that have figures of their own.
_IOUS = {50: 0, 75: 5}
# Detections of an image that count.
MOST_DETECTIONS = _COUNTS[-1]


class Detections(NamedTuple):
    """What a detector finds in a picture.

    Attributes:
      corners: [n, 4] float64 left, top, right and bottom, in the picture's own pixels.
      classes: [n] int32.
      scores: [n] float32; of those of an image and a class the best hundred count.
    """

    corners: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


def summarise(
    truths: Sequence[Boxes], found: Sequence[Detections], class_names: Sequence[str]
) -> dict[str, float]:
    """COCO's summary of detections, in percent.

    Args:
      truths: what there is in each picture.
      found: what was found in each.
      class_names: of all classes.

    Returns:
      `ap`, the mean over classes and IoUs from 0.5 to 0.95; `ap50` and `ap75` at one IoU;
      `ap_small`, `ap_medium` and `ap_large` of objects below 32 x 32 pixels, below 96 x 96 and
      above; `ar1`, `ar10` and `ar100`, the mean recall of as many detections an image and class,
      and `ar_small` to `ar_large`; and `ap/CLASS`. What there is no object for is left out.
    """
    # Takes compiled code, which few runs need.
    from faster_coco_eval import COCO, COCOeval_faster

    truth, results = COCO(_as_coco(truths, len(class_names))), _as_results(found)
    # Before 1.8 it can't load a list of none.
    nothing = COCO(truth.dataset | {"annotations": []})
    evaluation = COCOeval_faster(truth, truth.loadRes(results) if results else nothing, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    # Both have -1 where there is no object: [IoU, recall, class, area, count] and without recall.
    precision, recall = (np.asarray(evaluation.eval[name]) for name in ("precision", "recall"))
    figures = {"ap": precision[..., 0, -1]}
    figures |= {f"ap{iou}": precision[place, ..., 0, -1] for iou, place in _IOUS.items()}
    for place, area in enumerate(_AREAS[1:], start=1):
        figures[f"ap_{area}"] = precision[..., place, -1]
        figures[f"ar_{area}"] = recall[..., place, -1]
    figures |= {f"ar{count}": recall[..., 0, place] for place, count in enumerate(_COUNTS)}
    figures |= {f"ap/{name}": precision[:, :, i, 0, -1] for i, name in enumerate(class_names)}
    return {
        name: 100 * float(values[values > -1].mean())
        for name, values in figures.items()
        if (values > -1).any()
    }


def _as_coco(truths: Sequence[Boxes], num_classes: int) -> dict[str, list[dict[str, object]]]:
    annotations: list[dict[str, object]] = []
    for number, boxes in enumerate(truths):
        columns = (_from_corners(boxes.corners), boxes.classes, boxes.areas, boxes.is_crowd)
        for box, label, area, is_crowd in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,  # 0 would mean that nothing matches
                    "image_id": number,
                    "category_id": label,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(is_crowd),
                }
            )
    return {
        "images": [{"id": number} for number in range(len(truths))],
        "annotations": annotations,
        "categories": [{"id": number} for number in range(num_classes)],
    }


def _as_results(found: Sequence[Detections]) -> list[dict[str, object]]:
    results: list[dict[str, object]] = []
    for number, detections in enumerate(found):
        columns = (_from_corners(detections.corners), detections.classes, detections.scores)
        for box, label, score in zip(*(column.tolist() for column in columns), strict=True):
            results.append({"image_id": number, "category_id": label, "bbox": box, "score": score})
    return results


def _from_corners(corners: np.ndarray) -> np.ndarray:
    """[n, 4] left, top, right and bottom -> left, top, width and height."""
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
