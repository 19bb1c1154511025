"""Losses of what detectors, segmenters and models of maps find."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import losses
from maskaq_jax.losses.boxes import box_distance
from maskaq_jax.losses.targets import relabelled

NOTHING = 5
OBJECTS = losses.Objects(
    classes=jnp.array([[2, 0], [1, 4]]),
    boxes=jnp.array(
        [[[0.3, 0.3, 0.2, 0.4], [0.7, 0.5, 0.2, 0.2]], [[0.5, 0.5, 0.5, 0.5], [0.2, 0.8, 0.3, 0.3]]]
    ),
    tokens=jnp.array([[1, 6], [0, 3]]),
)


def _found(classes, boxes, sureness=20.0):
    return {"logits": sureness * jax.nn.one_hot(classes, NOTHING + 1), "pred_boxes": boxes}


def _wanted():
    """What a detector says that finds just the objects."""
    rows = jnp.arange(2)[:, None]
    classes = jnp.full((2, 8), NOTHING).at[rows, OBJECTS.tokens].set(OBJECTS.classes)
    boxes = jnp.full((2, 8, 4), 0.5).at[rows, OBJECTS.tokens].set(OBJECTS.boxes)
    return classes, boxes


def test_boxes_are_as_far_apart_as_by_hand():
    one, other = jnp.array([0.25, 0.5, 0.5, 1.0]), jnp.array([0.75, 0.5, 0.5, 1.0])
    # They touch: no intersection, and their hull is their union.
    np.testing.assert_allclose(box_distance(one, other), 5 * 0.5 + 2 * 1, rtol=1e-6)
    far = jnp.array([0.9, 0.5, 0.2, 1.0])
    # Their hull is 1, of which they cover 0.7.
    np.testing.assert_allclose(box_distance(one, far), 5 * 0.95 + 2 * (1 + 0.3), rtol=1e-6)
    gradient = jax.grad(lambda box: box_distance(box, far))(one)
    assert gradient[0] < 0  # towards it


def test_objects_that_are_found_cost_nothing_and_others_do():
    classes, boxes = _wanted()
    assert losses.objects_loss(_found(classes, boxes), OBJECTS, 0.0) < 1e-4
    missed = classes.at[0, 1].set(NOTHING)
    assert losses.objects_loss(_found(missed, boxes), OBJECTS, 0.0) > 1
    moved = boxes.at[0, 1].add(0.1)
    assert losses.objects_loss(_found(classes, moved), OBJECTS, 0.0) > 0.1
    # No object's box is asked for elsewhere.
    free = boxes.at[0, 0].set(0.9)
    assert losses.objects_loss(_found(classes, free), OBJECTS, 0.0) < 1e-4


def test_a_model_s_own_objects_take_the_place_of_drawn_ones_but_nothing_never_does():
    classes, boxes = _wanted()
    other = _found(classes.at[0, 1].set(3), boxes.at[0, 1].add(0.1))
    early, late = (losses.objects_loss(other, OBJECTS, progress) for progress in (0.0, 1.0))
    assert late < 1e-4 < early
    missed = _found(classes.at[0, 1].set(NOTHING), boxes)
    assert losses.objects_loss(missed, OBJECTS, 1.0) > 1


def test_label_maps_are_relabelled_where_a_model_is_surer():
    label_maps = jnp.array([[[0, 1], [2, 2]]])
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.6, 0.3, 0.1])), (1, 2, 2, 3))
    early = losses.label_map_loss(logits, label_maps, 0.0)
    np.testing.assert_allclose(early, -np.log([0.6, 0.3, 0.1, 0.1]).mean(), rtol=1e-5)
    late = losses.label_map_loss(logits, label_maps, 0.5)
    np.testing.assert_allclose(late, -np.log(0.6), rtol=1e-5)
    np.testing.assert_array_equal(relabelled(logits, label_maps, 0.3), label_maps)


def test_a_detector_is_distilled_by_classes_and_by_the_boxes_that_count():
    classes, boxes = _wanted()
    teacher = _found(classes, boxes)
    assert losses.detection_distillation_loss(teacher, teacher, 2.0) < 1e-6
    at_object, elsewhere = boxes.at[0, 1].add(0.1), boxes.at[0, 0].add(0.1)
    far, near = (
        losses.detection_distillation_loss(_found(classes, moved), teacher, 2.0)
        for moved in (at_object, elsewhere)
    )
    assert far > 0.1
    assert near < 1e-3


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_maps_are_compared_as_shares_of_their_own_size(scale):
    teacher = scale * jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    student = 1.5 * teacher
    loss = losses.map_distillation_loss([student], [teacher])
    spread = teacher - teacher.mean(axis=(1, 2), keepdims=True)
    expected = jnp.square(student - teacher).mean() / jnp.square(spread).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_other_axes_are_named():
    logits = jnp.zeros((2, 3, 3, 4))
    with pytest.raises(ValueError, match="label_maps and pixels must have the same shape"):
        losses.label_map_loss(logits, jnp.zeros((2, 3, 2), jnp.int32), 0.0)
    with pytest.raises(ValueError, match=r"logits must be \[batch, tokens, classes\]"):
        losses.objects_loss({"logits": logits, "pred_boxes": logits}, OBJECTS, 0.0)
    with pytest.raises(ValueError, match="same shape"):
        losses.segmentation_distillation_loss(logits, logits[:, :2], 1.0)
