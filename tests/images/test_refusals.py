"""What functions of images say of arrays that would give wrong images without a word."""

import jax
import numpy as np
import pytest

from maskaq_jax.images import backgrounds, dead_leaves, mixture, noise
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.images.views import FinetuningView, finetuning_view

KEY, PIXELS, INDICES = jax.random.key(0), Pixels(), np.arange(2)
IMAGES = np.zeros((2, 4, 4, 3), np.float32)
BYTES = IMAGES.astype(np.uint8)
GREY = IMAGES[..., :1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PIXELS.from_bytes(IMAGES), "images must have uint8 dtype, got float32"),
        (
            lambda: PIXELS.from_bytes(BYTES[..., :1]),
            r"images must be \[\.\.\., channels=3\], got shape \(2, 4, 4, 1\)",
        ),
        (lambda: PIXELS.normalise(BYTES), "pixels must have floating dtype, got uint8"),
        (
            lambda: PIXELS.normalise(GREY),
            r"pixels must be \[\.\.\., channels=3\], got shape \(2, 4, 4, 1\)",
        ),
        (
            lambda: PIXELS.denormalise(GREY),
            r"images must be \[\.\.\., channels=3\], got shape \(2, 4, 4, 1\)",
        ),
        (
            lambda: PIXELS.clip(IMAGES[0]),
            r"images must be \[batch, height, width, channels=3\], got shape \(4, 4, 3\)",
        ),
        (
            lambda: finetuning_view(jax.random.split(KEY, 2), GREY, PIXELS, FinetuningView()),
            r"images must be \[batch, height, width, channels=3\], got shape \(2, 4, 4, 1\)",
        ),
        (lambda: noise.blur(BYTES, 0.1), "images must have floating dtype, got uint8"),
        (
            lambda: noise.blur(IMAGES[0], 0.1),
            r"images must be \[batch, height, width, channels\], got shape \(4, 4, 3\)",
        ),
        (
            lambda: noise.blur(IMAGES, np.ones(1)),
            r"smoothness must be \[batch=2\], got shape \(1,\)",
        ),
        (
            lambda: noise.draw_noise(KEY, INDICES[None], (4, 4, 3), PIXELS),
            r"indices must be \[batch\], got shape \(1, 2\)",
        ),
        (
            lambda: noise.draw_smoothness(KEY, INDICES * 1.0, 0.1, 0.5),
            "indices must have integer dtype, got float",
        ),
        (
            lambda: backgrounds.paint(BYTES, "black", KEY, INDICES, PIXELS),
            "images must have floating dtype, got uint8",
        ),
        (
            lambda: backgrounds.paint(IMAGES[0], "black", KEY, INDICES, PIXELS),
            r"images must be \[batch, height, width, channels=3\], got shape \(4, 4, 3\)",
        ),
        (
            lambda: backgrounds.paint(IMAGES, "black", KEY, INDICES[:1], PIXELS),
            r"indices must be \[batch=2\], got shape \(1,\)",
        ),
        (
            lambda: backgrounds.draw_boxes(KEY, INDICES[0], 4, 4),
            r"indices must be \[batch\], got shape \(\)",
        ),
        (
            lambda: dead_leaves.draw_leaves(KEY, INDICES, (4, 4), PIXELS),
            r"shape must be height, width and 3 channels, got \(4, 4\)",
        ),
        (
            lambda: dead_leaves.draw_leaves(KEY, INDICES, (4, 4, 1), PIXELS),
            r"shape must be height, width and 3 channels, got \(4, 4, 1\)",
        ),
        (
            lambda: mixture.draw_mixture(KEY, INDICES, (4, 4), PIXELS),
            r"shape must be height, width and 3 channels, got \(4, 4\)",
        ),
        (
            lambda: mixture.draw_mixture(KEY, INDICES[0], (4, 4, 3), PIXELS),
            r"indices must be \[batch\], got shape \(\)",
        ),
    ],
)
def test_what_would_be_broadcast_or_misread_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
