"""What losses say of arrays that would give a wrong number without a word."""

import numpy as np
import pytest

from maskaq_jax import losses
from maskaq_jax.losses import boxes
from maskaq_jax.losses.targets import relabelled


def _floats(*shape):
    return np.full(shape, 0.5, np.float32)


def _integers(*shape):
    return np.zeros(shape, np.int32)


FOUND = {"logits": _floats(2, 8, 6), "pred_boxes": _floats(2, 8, 4)}
OBJECTS = losses.Objects(_integers(2, 3), _floats(2, 3, 4), _integers(2, 3))
MAPS = _floats(2, 3, 3, 5)


def _objects_loss(boxes=FOUND["pred_boxes"], progress=0.0, **changes):
    return losses.objects_loss(FOUND | {"pred_boxes": boxes}, OBJECTS._replace(**changes), progress)


def _detection(student_boxes, teacher_boxes=FOUND["pred_boxes"]):
    student, teacher = (FOUND | {"pred_boxes": own} for own in (student_boxes, teacher_boxes))
    return losses.detection_distillation_loss(student, teacher, 2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: losses.variation_gap_loss(_floats(1, 4, 4, 3), _floats(2)),
            r"target must be a scalar, got shape \(2,\)",
        ),
        (
            lambda: _objects_loss(boxes=_floats(2, 8, 3)),
            r"pred_boxes must be \[batch=2, tokens=8, sides=4\], got shape \(2, 8, 3\)",
        ),
        (
            lambda: _objects_loss(boxes=_floats(2, 7, 4)),
            r"pred_boxes must be \[batch=2, tokens=8, sides=4\], got shape \(2, 7, 4\)",
        ),
        (
            lambda: _objects_loss(classes=_integers(1, 3)),
            r"objects.classes must be \[batch=2, objects\], got shape \(1, 3\)",
        ),
        (
            lambda: _objects_loss(classes=_floats(2, 3)),
            "objects.classes must have integer dtype, got float32",
        ),
        (
            lambda: _objects_loss(progress=_floats(2)),
            r"progress must be a scalar, got shape \(2,\)",
        ),
        (
            lambda: losses.objects_loss(FOUND, OBJECTS._replace(boxes=_floats(1, 3, 4)), 0.0),
            r"objects.boxes must be \[batch=2, objects=3, sides=4\], got shape \(1, 3, 4\)",
        ),
        (
            lambda: _objects_loss(tokens=_integers(2, 1)),
            r"objects.tokens must be \[batch=2, objects=3\], got shape \(2, 1\)",
        ),
        (
            lambda: losses.label_map_loss(MAPS, _floats(2, 3, 3), 0.0),
            "label_maps must have integer dtype, got float32",
        ),
        (
            lambda: relabelled(MAPS, _integers(3), 0.0),
            r"drawn must have shape \(2, 3, 3\), got \(3,\)",
        ),
        (
            lambda: relabelled(MAPS, _floats(2, 3, 3), 0.0),
            "drawn must have integer dtype, got float32",
        ),
        (
            lambda: relabelled(MAPS, _integers(2, 3, 3), _floats(3)),
            r"progress must be a scalar, got shape \(3,\)",
        ),
        (
            lambda: _detection(_floats(2, 8, 3), _floats(2, 8, 3)),
            r"student boxes must be \[batch=2, tokens=8, sides=4\], got shape \(2, 8, 3\)",
        ),
        (
            lambda: _detection(_floats(2, 1, 4), _floats(2, 1, 4)),
            r"student boxes must be \[batch=2, tokens=8, sides=4\], got shape \(2, 1, 4\)",
        ),
        (
            lambda: _detection(FOUND["pred_boxes"], _floats(1, 8, 4)),
            r"teacher_boxes must have the same shape, got \(2, 8, 4\) and \(1, 8, 4\)",
        ),
        (
            lambda: boxes.box_distance(_floats(5, 3), _floats(5, 3)),
            r"boxes must be \[\.\.\., sides=4\], got shape \(5, 3\)",
        ),
        (
            lambda: boxes.box_distance(_floats(5, 4), _floats(1, 4)),
            r"boxes and targets must have the same shape, got \(5, 4\) and \(1, 4\)",
        ),
        (
            lambda: boxes.box_distance(_integers(5, 4), _integers(5, 4)),
            "boxes must have floating dtype, got int32",
        ),
        (
            lambda: boxes.corners_of(_floats(5, 3)),
            r"boxes must be \[\.\.\., sides=4\], got shape \(5, 3\)",
        ),
        (
            lambda: boxes.intersections_over_unions(_floats(5, 4), _floats(1, 4)),
            r"one and other must have the same shape, got \(5, 4\) and \(1, 4\)",
        ),
    ],
)
def test_what_would_be_broadcast_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
