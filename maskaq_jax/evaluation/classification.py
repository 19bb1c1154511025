"""Top-1 accuracy of a classifier."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.data.batches import LabelledBatch
from maskaq_jax.devices.global_batch import LOCAL, GlobalBatch
from maskaq_jax.evaluation.evaluator import Counts, check_labels, total
from maskaq_jax.models import Model


class Classification:
    """Counts the images whose largest logit is that of their label."""

    def count(
        self, model: Model, variables: Any, batch: LabelledBatch, over: GlobalBatch = LOCAL
    ) -> Counts:
        """Top-1 hits of a padded batch.

        Args:
          model: P or Q.
          variables: its variables.
          batch: normalised images, their labels, and which of them are valid.
          over: the global batch that the counts are of.

        Returns:
          `correct` and `images`, [] int32 each, over the valid examples of the global batch.
        """
        check_labels(batch)
        logits, _ = model.apply(variables, batch.images)
        return over.sum_over_devices(_hits(logits, batch))

    def finish(self, counts: Sequence[Counts]) -> dict[str, float]:
        """`top1`, in percent."""
        return {"top1": 100 * total(counts, "correct") / total(counts, "images")}


class Confidence:
    """The same, and how sure the model is of the classes it finds."""

    def count(
        self, model: Model, variables: Any, batch: LabelledBatch, over: GlobalBatch = LOCAL
    ) -> Counts:
        """As of `Classification`, and `confidence`, [] float32 sum of the largest probabilities."""
        check_labels(batch)
        logits, _ = model.apply(variables, batch.images)
        largest = jax.nn.softmax(logits).max(axis=-1)
        confidence = {"confidence": jnp.sum(largest, where=batch.valid)}
        return over.sum_over_devices(_hits(logits, batch) | confidence)

    def finish(self, counts: Sequence[Counts]) -> dict[str, float]:
        """As of `Classification`, and `confidence`, what the model takes `top1` for, in percent."""
        confidence = 100 * total(counts, "confidence") / total(counts, "images")
        return Classification().finish(counts) | {"confidence": confidence}


def _hits(logits: Array, batch: LabelledBatch) -> Counts:
    is_correct = (logits.argmax(axis=-1) == batch.labels) & batch.valid
    return {"correct": jnp.sum(is_correct), "images": jnp.sum(batch.valid)}
