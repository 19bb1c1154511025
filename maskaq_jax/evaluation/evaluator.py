"""What an evaluator is: counts on the device, figures on the host."""

from collections.abc import Sequence
from typing import Any, Protocol

from maskaq_jax.data.batches import LabelledBatch
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


def total(counts: Sequence[Counts], name: str) -> float:
    """Sum over batches, in Python's precision."""
    return sum(float(batch[name]) for batch in counts)
