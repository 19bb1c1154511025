"""Boxes, and how far one lies from another."""

import jax.numpy as jnp
from jax import Array

from maskaq_jax.devices import arrays

_BOXES = "... sides"


def corners_of(boxes: Array) -> Array:
    """[..., 4] centre, width and height -> left, top, right and bottom."""
    arrays.check_axes("boxes", boxes, _BOXES, "floating", sides=4)
    centres, sides = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([centres - sides / 2, centres + sides / 2], axis=-1)


def intersections_over_unions(one: Array, other: Array) -> Array:
    """[...] IoU of each of [..., 4] boxes, left, top, right and bottom, with the other one; 0 of
    two that are empty.
    """
    arrays.check_axes("one", one, _BOXES, "floating", sides=4)
    arrays.check_same_shape(one=one, other=other)
    intersection, union = _intersection_and_union(one, other)
    return jnp.where(union > 0, intersection / jnp.where(union > 0, union, 1), 0)


def box_distance(boxes: Array, targets: Array) -> Array:
    """How far boxes are from others: `5 |b - t|_1 + 2 (1 - GIoU)`, the weights of DETR.

    GIoU is the IoU less the share of the smallest box around both that neither covers (Rezatofighi
    et al. 2019), so boxes that don't touch have a slope too.

        >>> box = jnp.array([0.5, 0.5, 0.2, 0.2])
        >>> print(box_distance(box, box).round(3), box_distance(box, box + 0.1).round(3))
        0.0 3.269

    Args:
      boxes: [..., 4] centre, width and height as shares of the image.
      targets: [..., 4] likewise.

    Returns:
      [...] float32.

    Raises:
      ValueError: boxes of other than four sides or no floating dtype, or not as many targets.
    """
    arrays.check_axes("boxes", boxes, _BOXES, "floating", sides=4)
    arrays.check_same_shape(boxes=boxes, targets=targets)
    one, other = corners_of(boxes), corners_of(targets)
    intersection, union = _intersection_and_union(one, other)
    sides = jnp.maximum(one[..., 2:], other[..., 2:]) - jnp.minimum(one[..., :2], other[..., :2])
    around = jnp.maximum(sides.prod(axis=-1), 1e-9)
    generalized = intersection / jnp.maximum(union, 1e-9) - (around - union) / around
    return 5 * jnp.abs(boxes - targets).sum(axis=-1) + 2 * (1 - generalized)


def check_boxes_of_tokens(name: str, boxes: Array, logits: Array) -> None:
    """Raises ValueError for boxes that are not [B, tokens, 4] of logits [B, tokens, classes]."""
    batch, tokens, _ = logits.shape
    lengths = {"batch": batch, "tokens": tokens, "sides": 4}
    arrays.check_axes(name, boxes, "batch tokens sides", "floating", **lengths)


def _intersection_and_union(one: Array, other: Array) -> tuple[Array, Array]:
    """[...] areas of boxes given by corners."""
    shared = jnp.minimum(one[..., 2:], other[..., 2:]) - jnp.maximum(one[..., :2], other[..., :2])
    intersection = jnp.maximum(shared, 0).prod(axis=-1)
    areas = [(corners[..., 2:] - corners[..., :2]).prod(axis=-1) for corners in (one, other)]
    return intersection, areas[0] + areas[1] - intersection
