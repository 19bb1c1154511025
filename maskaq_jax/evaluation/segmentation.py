"""Intersections over unions of a segmenter's classes."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from maskaq_jax.data.batches import LabelledBatch
from maskaq_jax.devices.global_batch import LOCAL, GlobalBatch
from maskaq_jax.evaluation.evaluator import Counts, check_labels
from maskaq_jax.models import Model


class Segmentation:
    """Counts which class is found at the pixels of each, at the size of the model's images."""

    def __init__(self, class_names: Sequence[str]):
        """Names the model's classes."""
        self._class_names = class_names

    def count(
        self, model: Model, variables: Any, batch: LabelledBatch, over: GlobalBatch = LOCAL
    ) -> Counts:
        """The confusion matrix of a padded batch.

        Args:
          model: P or Q.
          variables: its variables.
          batch: normalised images, their label maps, and which of them are valid.
          over: the global batch that the counts are of.

        Returns:
          `confusion`, [classes, classes] int32 pixels by their label and by what is found there;
          those without label, -1, are in none. And `images`, [] int32, the valid ones.
        """
        logits, _ = model.apply(variables, batch.images)
        check_labels(batch, *logits.shape[1:-1])
        num_classes = logits.shape[-1]
        counts = (batch.labels >= 0) & batch.valid[:, None, None]
        # What doesn't count is beyond the last place.
        places = jnp.where(
            counts, batch.labels * num_classes + logits.argmax(axis=-1), num_classes**2
        )
        pixels = jnp.bincount(places.reshape(-1), length=num_classes**2 + 1)[:-1]
        return over.sum_over_devices(
            {
                "confusion": pixels.reshape(num_classes, num_classes),
                "images": jnp.sum(batch.valid),
            }
        )

    def finish(self, counts: Sequence[Counts]) -> dict[str, float]:
        """Figures in percent, of all pixels with a label together.

        `miou`, the mean over classes of intersection over union; `pixel_accuracy`, the share of
        pixels of the right class; `mean_accuracy`, the mean over classes of that share; `iou/CLASS`
        of each. A class that is neither labelled nor found is left out of all.
        """
        confusion = sum(np.asarray(batch["confusion"], np.int64) for batch in counts)
        hits, labelled = np.diagonal(confusion), np.sum(confusion, axis=1)
        if not labelled.any():
            raise OSError("no pixel of the label maps has a class")
        unions = labelled + np.sum(confusion, axis=0) - hits
        ious = 100 * hits / np.where(unions, unions, 1)
        return {
            "miou": float(ious[unions > 0].mean()),
            "pixel_accuracy": float(100 * hits.sum() / labelled.sum()),
            "mean_accuracy": float(100 * (hits[labelled > 0] / labelled[labelled > 0]).mean()),
            **{
                f"iou/{name}": float(iou)
                for name, iou, union in zip(self._class_names, ious, unions, strict=True)
                if union
            },
        }
