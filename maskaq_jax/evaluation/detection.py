"""Average precision of a detector."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from maskaq_jax.data.batches import LabelledBatch
from maskaq_jax.data.boxes import BoxDataset
from maskaq_jax.devices import arrays
from maskaq_jax.devices.global_batch import LOCAL, GlobalBatch
from maskaq_jax.evaluation import average_precision
from maskaq_jax.evaluation.average_precision import Detections
from maskaq_jax.evaluation.evaluator import Counts, check_labels
from maskaq_jax.losses.boxes import check_boxes_of_tokens, corners_of
from maskaq_jax.models import Model


class Detection:
    """Hands what a detector finds to the host, which compares it with what there is."""

    def __init__(self, dataset: BoxDataset):
        """Takes what there is in the images from the dataset whose batches are counted."""
        self._dataset = dataset

    def count(
        self, model: Model, variables: Any, batch: LabelledBatch, over: GlobalBatch = LOCAL
    ) -> Counts:
        """What is found in a padded batch.

        Args:
          model: P or Q.
          variables: its variables.
          batch: normalised images, their numbers for labels, and which of them are valid.
          over: the global batch.

        Returns:
          Of the whole global batch `numbers`, [B] int32, and `valid`, [B] bool; of the detections,
          those that the model is surest of, `corners`, [B, n, 4] float32 in pixels of the model's
          images, `classes` and `scores`, [B, n]. And `images`, [] int32, the valid ones.
        """
        check_labels(batch)
        outputs, _ = model.apply(variables, batch.images)
        height, width, _ = model.input_shape
        found = find(outputs["logits"], outputs["pred_boxes"], average_precision.MOST_DETECTIONS)
        pixels = jnp.array([width, height, width, height], jnp.float32)
        found["corners"] = found["corners"] * pixels[None, None]
        rows = {"numbers": batch.labels, "valid": batch.valid, **found}
        return over.gather_over_devices(rows) | over.sum_over_devices(
            {"images": jnp.sum(batch.valid)}
        )

    def finish(self, counts: Sequence[Counts]) -> dict[str, float]:
        """As of `average_precision.summarise`, on the images that are valid."""
        rows = [row for batch in counts for row in _valid_rows(batch)]
        found = [
            Detections(
                self._dataset.placement(number).boxes_on_picture(row["corners"]),
                row["classes"],
                row["scores"],
            )
            for number, row in rows
        ]
        truths = [self._dataset.boxes(number) for number, _ in rows]
        return average_precision.summarise(truths, found, self._dataset.class_names)


def find(logits: Array, boxes: Array, most: int) -> dict[str, Array]:
    """A detection for each token, as DETR's authors read them, the surest ones first.

    Args:
      logits: [B, tokens, classes + 1]; the last class is "no object".
      boxes: [B, tokens, 4] centre, width and height.
      most: detections to keep; there are no more than tokens.

    Returns:
      `corners`, [B, n, 4] left, top, right and bottom in the boxes' unit; `classes`, [B, n] int32,
      the likeliest that is an object; `scores`, [B, n] float32, its probability.

    Raises:
      ValueError: logits or boxes of other axes, or of other tokens.
    """
    arrays.check_axes("logits", logits, "batch tokens classes", "floating")
    check_boxes_of_tokens("boxes", boxes, logits)
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))[..., :-1]
    scores, places = jax.lax.top_k(probabilities.max(axis=-1), min(most, logits.shape[1]))
    classes = jnp.take_along_axis(probabilities.argmax(axis=-1), places, axis=1)
    kept = jnp.take_along_axis(boxes.astype(jnp.float32), places[..., None], axis=1)
    return {"corners": corners_of(kept), "classes": classes, "scores": scores}


def _valid_rows(batch: Counts) -> list[tuple[int, Mapping[str, np.ndarray]]]:
    """Number and detections of each valid image of a batch."""
    names = ("corners", "classes", "scores")
    return [
        (int(batch["numbers"][row]), {name: np.asarray(batch[name][row]) for name in names})
        for row in np.flatnonzero(batch["valid"])
    ]
