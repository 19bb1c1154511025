"""How far what Q finds is from what P finds, where that is more than a class.

Source: `docs/method.md` section 8.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.devices import arrays
from maskaq_jax.devices.global_batch import LOCAL, GlobalBatch
from maskaq_jax.losses import _distances, _reductions
from maskaq_jax.losses.boxes import box_distance, check_boxes_of_tokens


def detection_distillation_loss(
    student: Mapping[str, Array],
    teacher: Mapping[str, Array],
    temperature: float,
    *,
    over: GlobalBatch = LOCAL,
) -> Array:
    """Divergence of the classes of all detection tokens, and distance of the boxes that count.

    A box counts as much as P is sure that its token finds an object at all.

        >>> outputs = {"logits": jnp.zeros((1, 5, 3)), "pred_boxes": jnp.full((1, 5, 4), 0.5)}
        >>> print(detection_distillation_loss(outputs, outputs, temperature=2.0))
        0.0

    Args:
      student: `logits` [B, tokens, classes + 1], the last for no object, and `pred_boxes`
        [B, tokens, 4], of Q.
      teacher: those of P; no gradient flows to them.
      temperature: of the divergence.
      over: the global batch.

    Raises:
      ValueError: logits or boxes of other axes, of other tokens, or of different shapes.
    """
    teacher = jax.lax.stop_gradient(dict(teacher))
    arrays.check_axes("student logits", student["logits"], "batch tokens classes", "floating")
    check_boxes_of_tokens("student boxes", student["pred_boxes"], student["logits"])
    arrays.check_same_shape(
        student_boxes=student["pred_boxes"], teacher_boxes=teacher["pred_boxes"]
    )
    arrays.check_same_shape(student_logits=student["logits"], teacher_logits=teacher["logits"])
    divergences = temperature**2 * _distances.class_divergence(
        student["logits"], teacher["logits"], temperature
    )
    nothing = jax.nn.softmax(teacher["logits"].astype(jnp.float32))[..., -1]
    distances = (1 - nothing) * box_distance(student["pred_boxes"], teacher["pred_boxes"])
    by_image = distances.sum(axis=1) / jnp.maximum((1 - nothing).sum(axis=1), 1e-6)
    return over.mean(divergences.mean(axis=1) + by_image)


def segmentation_distillation_loss(
    student_logits: Array,
    teacher_logits: Array,
    temperature: float,
    *,
    over: GlobalBatch = LOCAL,
) -> Array:
    """`T^2 KL(softmax(teacher / T) || softmax(student / T))`, mean over pixels and images.

        >>> teacher = jnp.log(jnp.array([0.5, 0.5])).reshape(1, 1, 1, 2)
        >>> student = jnp.log(jnp.array([0.25, 0.75])).reshape(1, 1, 1, 2)
        >>> print(f"{segmentation_distillation_loss(student, teacher, temperature=1.0):.3f}")
        0.144

    Args:
      student_logits: [B, rows, columns, classes] of Q.
      teacher_logits: those of P; no gradient flows to them.
      temperature: T.
      over: the global batch.

    Raises:
      ValueError: logits of other axes, or of different shapes.
    """
    arrays.check_axes("student_logits", student_logits, "batch rows columns classes", "floating")
    arrays.check_same_shape(student_logits=student_logits, teacher_logits=teacher_logits)
    divergence = _distances.class_divergence(student_logits, teacher_logits, temperature)
    return temperature**2 * over.mean(divergence)


def map_distillation_loss(
    student: Sequence[Array], teacher: Sequence[Array], *, over: GlobalBatch = LOCAL
) -> Array:
    """Squared error of maps as a share of the variance of P's, mean over maps and images.

        >>> teacher = jnp.arange(16.0).reshape(1, 4, 4, 1)
        >>> print(f"{map_distillation_loss([teacher + 1], [teacher]):.3f}")  # 1 / 21.25
        0.047

    Args:
      student: [B, rows, columns, C] each, of Q.
      teacher: those of P; no gradient flows to them.
      over: the global batch.

    Raises:
      ValueError: maps of other axes, or P's and Q's of different shapes.
    """
    arrays.check_layers("batch rows columns channels", student=student, teacher=teacher)

    def map_loss(map_q: Array, map_p: Array) -> Array:
        target = jax.lax.stop_gradient(map_p).astype(jnp.float32)
        error = jnp.square(map_q.astype(jnp.float32) - target).mean(axis=(1, 2, 3))
        centred = target - target.mean(axis=(1, 2), keepdims=True)
        # A blank image's map hardly varies: the batch's variance bounds it.
        variance = over.mean(jnp.square(centred).mean(axis=(1, 2, 3)))
        return over.mean(error) / (variance + 1e-6)

    return _reductions.mean_over_layers(map_loss, student, teacher)
