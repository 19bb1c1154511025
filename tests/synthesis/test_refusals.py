"""What synthesis says of arrays that don't fit each other."""

import jax
import numpy as np
import pytest

from maskaq_jax.images.pixels import Pixels
from maskaq_jax.synthesis import first_images, inception_score, targets
from maskaq_jax.synthesis.step import SynthesisSettings, SynthesisSpec

KEY, INDICES, LABELS = jax.random.key(0), np.arange(2), np.zeros(2, np.int32)
KEYS = jax.random.split(KEY, 2)
SPEC = SynthesisSpec(SynthesisSettings(), Pixels())
BALANCED = SynthesisSettings(balanced_labels=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: inception_score.log_inception_score(np.zeros((2, 3, 4), np.float32)),
            r"logits must be \[images, classes\], got shape \(2, 3, 4\)",
        ),
        (
            lambda: inception_score.of_images(None, {}, np.zeros((40, 4, 4, 3), np.float32)),
            "images must be a multiple of 32, got 40",
        ),
        (
            lambda: first_images.draw_labels(KEY, INDICES[None], 3, BALANCED),
            r"indices must be \[batch\], got shape \(1, 2\)",
        ),
        (
            lambda: first_images.draw_images(KEY, INDICES[None], (4, 4, 3), SPEC),
            r"indices must be \[batch\], got shape \(1, 2\)",
        ),
        (
            lambda: targets.draw_objects(KEYS, LABELS[:1], 5, 8),
            "keys must be one an image, got 2 for 1 images",
        ),
        (
            lambda: targets.draw_objects(KEYS, LABELS[None], 5, 8),
            r"labels must be \[batch\], got shape \(1, 2\)",
        ),
        (
            lambda: targets.draw_label_maps(KEYS, LABELS * 1.0, 5, (4, 4)),
            "labels must have integer dtype, got float",
        ),
        (
            lambda: targets.draw_label_maps(KEY, LABELS, 5, (4, 4)),
            "keys must be one an image, got a scalar for 2 images",
        ),
    ],
)
def test_what_would_be_broadcast_or_misread_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
