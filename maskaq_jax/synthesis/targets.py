"""The term that gives images something to show, by the task of the model that looks at them.

Source: `docs/method.md` sections 2 and 8. A classifier is to find an image's class; a detector one
to four objects, of which the first is of that class; a segmenter a smooth map of up to four
classes, that one among them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import losses
from maskaq_jax.devices import arrays
from maskaq_jax.devices.global_batch import LOCAL, GlobalBatch
from maskaq_jax.losses import Objects
from maskaq_jax.models import Model

# Objects, or classes of a label map, of an image.
_MOST = 4
# Sides of boxes, as shares of the image's; and places a side of the noise that label maps are of.
_SMALLEST, _LARGEST = 0.15, 0.8
_NOISE_SIDE = 5


def target_loss(
    model: Model,
    outputs: Any,
    labels: Array,
    keys: Array,
    progress: Array | float,
    over: GlobalBatch = LOCAL,
) -> Array:
    """How far what P finds is from what images are made for, mean over images.

    Args:
      model: P or Q, which tells the task; it has classes.
      outputs: P's, of `model.apply`.
      labels: [B] int32 classes the images are made for.
      keys: [B] of the images, the same in each step; of no use to a classifier.
      progress: [] share of the steps that are done.
      over: the global batch.
    """
    if model.task == "detection":
        objects = draw_objects(keys, labels, model.num_classes, outputs["logits"].shape[1])
        return losses.objects_loss(outputs, objects, progress, over=over)
    if model.task == "segmentation":
        label_maps = draw_label_maps(keys, labels, model.num_classes, outputs.shape[1:3])
        return losses.label_map_loss(outputs, label_maps, progress, over=over)
    return losses.class_loss(outputs, labels, over=over)


def draw_objects(keys: Array, labels: Array, num_classes: int, num_tokens: int) -> Objects:
    """Objects for images: of each, one of its label, and up to three more of any class.

    Where an image has fewer than four, those that it lacks repeat the first one, token and box.

    Args:
      keys: [B] of the images.
      labels: [B] int32.
      num_classes: of objects.
      num_tokens: detection tokens; each object gets one out of a share of its own.

    Raises:
      ValueError: labels of other axes or no integers, or not as many keys.
    """
    _check_labels(labels, keys)

    def draw(key: Array, label: Array) -> Objects:
        count_key, class_key, centre_key, side_key, token_key = jax.random.split(key, 5)
        most = min(_MOST, num_tokens)
        count = jax.random.randint(count_key, (), 1, most + 1)
        classes = jax.random.randint(class_key, (most,), 0, num_classes).at[0].set(label)
        ratio = jnp.log(_LARGEST / _SMALLEST)
        sides = _SMALLEST * jnp.exp(ratio * jax.random.uniform(side_key, (most, 2)))
        # The whole box lies in the image.
        centres = sides / 2 + (1 - sides) * jax.random.uniform(centre_key, (most, 2))
        shares = (jnp.arange(most) + jax.random.uniform(token_key, (most,))) / most
        drawn = Objects(
            classes,
            jnp.concatenate([centres, sides], axis=-1),
            jnp.floor(shares * num_tokens).astype(jnp.int32),
        )
        number = jnp.where(jnp.arange(most) < count, jnp.arange(most), 0)
        return Objects(*(values[number] for values in drawn))

    return jax.vmap(draw)(keys, labels)


def draw_label_maps(keys: Array, labels: Array, num_classes: int, size: tuple[int, ...]) -> Array:
    """[B, rows, columns] int32 smooth maps of up to four classes, each image's label among them.

    Each class is where its smooth noise is above that of the others.

    Args:
      keys: [B] of the images.
      labels: [B] int32.
      num_classes: of pixels.
      size: rows and columns.

    Raises:
      ValueError: labels of other axes or no integers, or not as many keys.
    """
    _check_labels(labels, keys)

    def draw(key: Array, label: Array) -> Array:
        class_key, noise_key = jax.random.split(key)
        classes = jax.random.randint(class_key, (_MOST,), 0, num_classes).at[0].set(label)
        noise = jax.random.normal(noise_key, (_NOISE_SIDE, _NOISE_SIDE, _MOST))
        smooth = jax.image.resize(noise, (*size, _MOST), "cubic")
        return classes[smooth.argmax(axis=-1)]

    return jax.vmap(draw)(keys, labels)


def _check_labels(labels: Array, keys: Array) -> None:
    arrays.check_axes("labels", labels, "batch", "integer")
    arrays.check_count("keys", keys, len(labels))
