"""How a low-bit model agrees with the full-precision one, where there are no labels."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from maskaq_jax.data.batches import LabelledBatch
from maskaq_jax.devices.global_batch import LOCAL, GlobalBatch
from maskaq_jax.evaluation.evaluator import Counts, check_valid, total
from maskaq_jax.losses.boxes import corners_of, intersections_over_unions
from maskaq_jax.models import Model, full_precision


class Agreement:
    """Compares the classes and the pooled features that P and Q find."""

    def count(
        self, model: Model, variables: Any, batch: LabelledBatch, over: GlobalBatch = LOCAL
    ) -> Counts:
        """How P and Q agree on a padded batch.

        Args:
          model: Q; P is its full-precision clone.
          variables: `{"p": P's variables, "q": Q's}`.
          batch: normalised images and which of them are valid; labels are not looked at.
          over: the global batch that the counts are of.

        Returns:
          `same`, [] int32 images of the same top-1 class; `divergence`, [] float32 sum of the
          Kullback-Leibler divergences of Q's class probabilities from P's, in nats; `cosine`,
          [] float32 sum of the cosines of the pooled features; `images`, [] int32; over the valid
          examples of the global batch.
        """
        (logits_p, out_p), (logits_q, out_q) = _of_both(model, variables, batch)
        is_same = logits_p.argmax(axis=-1) == logits_q.argmax(axis=-1)
        cosines = optax.losses.cosine_similarity(out_q["features"], out_p["features"], epsilon=1e-6)
        counts = _counts(batch, is_same, divergences_of(logits_p, logits_q))
        return over.sum_over_devices(counts | {"cosine": jnp.sum(cosines * batch.valid)})

    def finish(self, counts: Sequence[Counts]) -> dict[str, float]:
        """`agreement`, the share of images of the same class in percent; `divergence`, the mean of
        the class probabilities', in nats; `feature_cosine`.
        """
        return _finish(counts) | {"feature_cosine": _mean_cosine(counts)}


class SegmentationAgreement:
    """Compares the classes that P and Q find at each pixel."""

    def count(
        self, model: Model, variables: Any, batch: LabelledBatch, over: GlobalBatch = LOCAL
    ) -> Counts:
        """As of `Agreement`, without features: an image counts with the mean over its pixels."""
        (logits_p, _), (logits_q, _) = _of_both(model, variables, batch)
        is_same = logits_p.argmax(axis=-1) == logits_q.argmax(axis=-1)
        shares, divergences = (
            values.mean(axis=(1, 2), dtype=jnp.float32)
            for values in (is_same, divergences_of(logits_p, logits_q))
        )
        return over.sum_over_devices(_counts(batch, shares, divergences))

    def finish(self, counts: Sequence[Counts]) -> dict[str, float]:
        """`agreement`, the share of pixels of the same class in percent; `divergence`, the mean of
        the class probabilities', in nats.
        """
        return _finish(counts)


class DetectionAgreement:
    """Compares what P and Q find by the same detection token."""

    def count(
        self, model: Model, variables: Any, batch: LabelledBatch, over: GlobalBatch = LOCAL
    ) -> Counts:
        """As of `SegmentationAgreement` with tokens for pixels, and `overlap`, [] float32 sum of
        the IoUs of P's and Q's boxes over the `objects`, [] int32 tokens by which P finds one.
        """
        (found_p, _), (found_q, _) = _of_both(model, variables, batch)
        classes_p, classes_q = (found["logits"].argmax(axis=-1) for found in (found_p, found_q))
        no_object = found_p["logits"].shape[-1] - 1
        is_object = (classes_p != no_object) & batch.valid[:, None]
        overlaps = intersections_over_unions(
            corners_of(found_p["pred_boxes"]), corners_of(found_q["pred_boxes"])
        )
        shares, divergences = (
            values.mean(axis=1, dtype=jnp.float32)
            for values in (
                classes_p == classes_q,
                divergences_of(found_p["logits"], found_q["logits"]),
            )
        )
        boxes = {
            "overlap": jnp.sum(jnp.where(is_object, overlaps, 0)),
            "objects": jnp.sum(is_object),
        }
        return over.sum_over_devices(_counts(batch, shares, divergences) | boxes)

    def finish(self, counts: Sequence[Counts]) -> dict[str, float]:
        """As of `SegmentationAgreement`, tokens for pixels; and `box_iou`, the mean IoU of boxes in
        percent, unless P finds nothing at all.
        """
        objects = total(counts, "objects")
        overlap = {"box_iou": 100 * total(counts, "overlap") / objects} if objects else {}
        return _finish(counts) | overlap


class MapAgreement:
    """Compares the maps of features that P and Q give."""

    def count(
        self, model: Model, variables: Any, batch: LabelledBatch, over: GlobalBatch = LOCAL
    ) -> Counts:
        """`cosine`, [] float32 sum over images of the mean over maps of the mean cosine of their
        places; and `images`, [] int32; over the valid examples of the global batch.
        """
        (maps_p, _), (maps_q, _) = _of_both(model, variables, batch)
        cosines = [
            optax.losses.cosine_similarity(map_q, map_p, epsilon=1e-6).mean(axis=(1, 2))
            for map_q, map_p in zip(maps_q, maps_p, strict=True)
        ]
        counts = {
            "cosine": jnp.sum(jnp.stack(cosines).mean(axis=0) * batch.valid),
            "images": jnp.sum(batch.valid),
        }
        return over.sum_over_devices(counts)

    def finish(self, counts: Sequence[Counts]) -> dict[str, float]:
        """`feature_cosine`, the mean over images."""
        return {"feature_cosine": _mean_cosine(counts)}


def _of_both(model: Model, variables: Any, batch: LabelledBatch) -> tuple[Any, Any]:
    """Outputs and `out` of P, and those of Q; raises ValueError for a batch without `valid`."""
    check_valid(batch)
    of_p = full_precision(model).apply(variables["p"], batch.images)
    return of_p, model.apply(variables["q"], batch.images)


def _counts(batch: LabelledBatch, same: Array, divergences: Array) -> Counts:
    """Sums over the valid images, and how many there are.

    Args:
      batch: that was compared.
      same: [B] whether P and Q find the same class, or the share of an image's places where so.
      divergences: [B] of class probabilities, or their means over an image's places.
    """
    return {
        "same": jnp.sum(same * batch.valid),
        "divergence": jnp.sum(jnp.where(batch.valid, divergences, 0)),
        "images": jnp.sum(batch.valid),
    }


def _finish(counts: Sequence[Counts]) -> dict[str, float]:
    """`agreement` in percent and mean `divergence`, of `_counts`."""
    images = total(counts, "images")
    return {
        "agreement": 100 * total(counts, "same") / images,
        "divergence": total(counts, "divergence") / images,
    }


def _mean_cosine(counts: Sequence[Counts]) -> float:
    return total(counts, "cosine") / total(counts, "images")


def divergences_of(logits_p: Array, logits_q: Array) -> Array:
    """[...] Kullback-Leibler divergence of Q's class probabilities from P's, of [..., classes]."""
    return optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(logits_q.astype(jnp.float32)),
        jax.nn.log_softmax(logits_p.astype(jnp.float32)),
    )
