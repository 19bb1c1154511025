"""What an evaluator is: counts on the device, figures on the host."""

from collections.abc import Sequence
from typing import Any, Protocol

from maskaq_jax.data.batches import LabelledBatch
from maskaq_jax.devices import arrays
from maskaq_jax.devices.global_batch import LOCAL, GlobalBatch
from maskaq_jax.models import Model

# Arrays by name, of one batch; `images` tells how many of its images are valid.
Counts = dict[str, Any]


class Evaluator(Protocol):
    """Measures a model on labelled images."""

    def count(
        self, model: Model, variables: Any, batch: LabelledBatch, over: GlobalBatch = LOCAL
    ) -> Counts:
        """What there is to count in the device's rows of a batch, over the global batch."""

    def finish(self, counts: Sequence[Counts]) -> dict[str, float]:
        """Figures by name, of the counts of every batch."""


def check_labels(batch: LabelledBatch, *sides: int) -> None:
    """Raises ValueError for labels that are not [B, *sides] integers, or as of `check_valid`."""
    arrays.check_shape("labels", batch.labels, (len(batch.images), *sides))
    arrays.check_kind("labels", batch.labels, "integer")
    check_valid(batch)


def check_valid(batch: LabelledBatch) -> None:
    """Raises ValueError where `valid` does not tell of each image whether it counts."""
    arrays.check_axes("valid", batch.valid, "batch", "bool", batch=len(batch.images))


def total(counts: Sequence[Counts], name: str) -> float:
    """Sum over batches, in Python's precision."""
    return sum(float(batch[name]) for batch in counts)
