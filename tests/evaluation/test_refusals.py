"""What evaluators say of batches whose parts don't fit each other."""

import numpy as np
import pytest

from maskaq_jax.data.batches import LabelledBatch
from maskaq_jax.evaluation import detection
from maskaq_jax.evaluation.agreement import Agreement
from maskaq_jax.evaluation.classification import Classification, Confidence
from maskaq_jax.evaluation.segmentation import Segmentation

LOGITS, BOXES = np.zeros((2, 8, 6), np.float32), np.zeros((2, 8, 4), np.float32)
BATCH = LabelledBatch(np.zeros((2, 4, 4, 3), np.float32), np.zeros(2, np.int32), np.ones(2, bool))


class _Shown:
    """A model that finds its images."""

    def apply(self, variables, images):
        return images, {}


def _count(evaluator, **changes):
    return evaluator.count(_Shown(), {}, BATCH._replace(**changes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: detection.find(LOGITS, BOXES[:, :5], 2),
            r"boxes must be \[batch=2, tokens=8, sides=4\], got shape \(2, 5, 4\)",
        ),
        (
            lambda: detection.find(LOGITS, BOXES[0], 2),
            r"boxes must be \[batch=2, tokens=8, sides=4\], got shape \(8, 4\)",
        ),
        (
            lambda: detection.find(LOGITS[0], BOXES, 2),
            r"logits must be \[batch, tokens, classes\], got shape \(8, 6\)",
        ),
        (
            lambda: _count(Classification(), labels=np.zeros(1, np.int32)),
            r"labels must have shape \(2,\), got \(1,\)",
        ),
        (
            lambda: _count(Confidence(), labels=np.zeros(2, np.float32)),
            "labels must have integer dtype, got float32",
        ),
        (
            lambda: _count(Segmentation(["one"]), labels=np.zeros((2, 4, 1), np.int32)),
            r"labels must have shape \(2, 4, 4\), got \(2, 4, 1\)",
        ),
        (
            lambda: _count(detection.Detection(None), valid=np.ones(1, bool)),
            r"valid must be \[batch=2\], got shape \(1,\)",
        ),
        (
            lambda: _count(Agreement(), valid=np.ones(2, np.int32)),
            "valid must have bool dtype, got int32",
        ),
    ],
)
def test_what_would_be_broadcast_or_misread_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
