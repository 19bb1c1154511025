"""What P is to find in a synthetic image, where that is more than a class: objects, a label map.

Source: `docs/method.md` section 8. P re-labels a target as its image takes shape. At progress t of
synthesis, a class that P is surer of than 1 - t takes the place of the one that was drawn, and a
drawn box has gone t of the way to P's own.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.devices import arrays
from maskaq_jax.devices.global_batch import LOCAL, GlobalBatch
from maskaq_jax.losses import _distances
from maskaq_jax.losses.boxes import box_distance, check_boxes_of_tokens

# Tokens without an object weigh less, as in DETR: there are many more of them.
_WEIGHT_OF_NOTHING = 0.1


class Objects(NamedTuple):
    """Objects that images are made for.

    Attributes:
      classes: [B, objects] int32.
      boxes: [B, objects, 4] centre, width and height as shares of the image.
      tokens: [B, objects] int32 detection tokens that are to find them, another for each.
    """

    classes: Array
    boxes: Array
    tokens: Array


def objects_loss(
    outputs: Mapping[str, Array],
    objects: Objects,
    progress: Array | float,
    *,
    over: GlobalBatch = LOCAL,
) -> Array:
    """Cross entropy of all detection tokens and distance of the objects' boxes, mean over images.

        >>> box = jnp.array([[[0.5, 0.5, 0.2, 0.2]]])
        >>> outputs = {"logits": jnp.zeros((1, 1, 4)), "pred_boxes": box}
        >>> objects = Objects(jnp.array([[2]]), box, tokens=jnp.array([[0]]))
        >>> print(f"{objects_loss(outputs, objects, progress=0.0):.3f}")  # log 4
        1.386

    Args:
      outputs: `logits` [B, tokens, classes + 1], the last for no object, and `pred_boxes`
        [B, tokens, 4], of P.
      objects: drawn ones.
      progress: [] share of the steps that are done.
      over: the global batch.

    Raises:
      ValueError: logits or boxes of other axes or tokens, objects of other images or axes, or a
        progress that is no scalar.
    """
    arrays.check_axes("logits", outputs["logits"], "batch tokens classes", "floating")
    check_boxes_of_tokens("pred_boxes", outputs["pred_boxes"], outputs["logits"])
    _check_objects(objects, len(outputs["logits"]))
    logits = outputs["logits"].astype(jnp.float32)
    boxes = outputs["pred_boxes"].astype(jnp.float32)
    nothing = logits.shape[-1] - 1
    rows = jnp.arange(len(logits))[:, None]
    has_object = jnp.zeros(logits.shape[:2], bool).at[rows, objects.tokens].set(True)
    drawn = jnp.full(logits.shape[:2], nothing).at[rows, objects.tokens].set(objects.classes)
    # A token that is to find an object is re-labelled as another one, never as nothing.
    own = relabelled(logits[..., :-1], drawn, progress)
    classes = jnp.where(has_object, own, relabelled(logits, drawn, progress))
    weights = jnp.where(classes == nothing, _WEIGHT_OF_NOTHING, 1.0)
    entropy = (weights * _distances.cross_entropy(logits, classes)).sum(axis=1) / weights.sum(
        axis=1
    )
    found = boxes[rows, objects.tokens]
    wanted = objects.boxes + progress * (jax.lax.stop_gradient(found) - objects.boxes)
    return over.mean(entropy + box_distance(found, wanted).mean(axis=1))


def label_map_loss(
    logits: Array, label_maps: Array, progress: Array | float, *, over: GlobalBatch = LOCAL
) -> Array:
    """Cross entropy of all pixels with drawn label maps, mean over images.

        >>> loss = label_map_loss(jnp.zeros((1, 4, 4, 10)), jnp.ones((1, 4, 4), jnp.int32), 0.0)
        >>> print(f"{loss:.3f}")  # log 10
        2.303

    Args:
      logits: [B, rows, columns, classes] of P.
      label_maps: [B, rows, columns] int32.
      progress: [] share of the steps that are done.
      over: the global batch.

    Raises:
      ValueError: logits of other axes, label maps of another size or no integers, or a progress
        that is no scalar.
    """
    arrays.check_axes("logits", logits, "batch rows columns classes", "floating")
    arrays.check_same_shape(label_maps=label_maps, pixels=logits[..., 0])
    arrays.check_kind("label_maps", label_maps, "integer")
    logits = logits.astype(jnp.float32)
    classes = relabelled(logits, label_maps, progress)
    return over.mean(_distances.cross_entropy(logits, classes))


def relabelled(logits: Array, drawn: Array, progress: Array | float) -> Array:
    """Drawn classes, or P's own where it is surer of them than 1 - progress.

        >>> logits = jnp.log(jnp.array([[0.7, 0.3]]))
        >>> print(relabelled(logits, jnp.array([1]), 0.2), relabelled(logits, jnp.array([1]), 0.4))
        [1] [0]

    Args:
      logits: [..., classes].
      drawn: [...] int32.
      progress: [] of 0 to 1.

    Raises:
      ValueError: logits that are not of floating dtype, drawn classes of another shape or no
        integers, or a progress that is no scalar.
    """
    arrays.check_axes("logits", logits, "... classes", "floating")
    arrays.check_shape("drawn", drawn, logits.shape[:-1])
    arrays.check_kind("drawn", drawn, "integer")
    arrays.check_axes("progress", progress, "")
    probabilities = jax.nn.softmax(jax.lax.stop_gradient(logits).astype(jnp.float32))
    is_sure = probabilities.max(axis=-1) > 1 - progress
    return jnp.where(is_sure, probabilities.argmax(axis=-1), drawn)


def _check_objects(objects: Objects, num_images: int) -> None:
    """Raises ValueError for objects of other images, or whose parts don't fit each other."""
    classes, boxes, tokens = objects
    axes, lengths = "batch objects", {"batch": num_images}
    arrays.check_axes("objects.classes", classes, axes, "integer", **lengths)
    lengths["objects"] = classes.shape[1]
    arrays.check_axes("objects.boxes", boxes, f"{axes} sides", "floating", **lengths, sides=4)
    arrays.check_axes("objects.tokens", tokens, axes, "integer", **lengths)
