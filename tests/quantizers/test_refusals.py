"""What quantizers say of grids and weights of channels that don't fit."""

import numpy as np
import pytest

from maskaq_jax import quantizers
from maskaq_jax.quantizers import fake

GRID = quantizers.ActivationQuantizer(0.1, 0.0, False)
BYTES = quantizers.ByteGrid(0.1, 0, 0, 15, 0, 0)
STEPS = quantizers.WeightQuantizer(np.ones(3, np.float32))
KERNEL = np.ones((3, 1), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: quantizers.quantize_weight_to_grid(KERNEL, STEPS, 4),
            r"quantizer.step must be \[out=1\], got shape \(3,\)",
        ),
        (
            lambda: fake.weight_in_steps(KERNEL.T, quantizers.WeightQuantizer(1.0), 4),
            r"quantizer.step must be \[out=3\], got shape \(\)",
        ),
        (
            lambda: quantizers.weight_codes_on_grid(KERNEL, STEPS, 4),
            r"quantizer.step must be \[out=1\], got shape \(3,\)",
        ),
        (lambda: BYTES.round(KERNEL.astype(np.uint8)), "x must have floating dtype, got uint8"),
        (lambda: BYTES.values(KERNEL), "codes must have uint8 dtype, got float32"),
        (
            lambda: quantizers.byte_grid(GRID.replace(step=np.ones(2)), 4),
            r"one step and one zero point, got shapes \(2,\) and \(\)",
        ),
        (
            lambda: quantizers.least_squares_activation_quantizer(KERNEL[:0], 4),
            r"x must have values to choose a range by, got shape \(0, 1\)",
        ),
        (
            lambda: quantizers.least_squares_activation_quantizer(KERNEL, 4, np.ones(3)),
            r"importance must be \[channels=1\], got shape \(3,\)",
        ),
        (
            lambda: quantizers.least_squares_weight_steps(KERNEL, 4, np.ones(1)),
            r"importance must have shape \(3,\), got \(1,\)",
        ),
    ],
)
def test_what_would_be_broadcast_or_misread_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
