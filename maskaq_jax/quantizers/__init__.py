"""Quantizers of weights and activations (`docs/method.md` section 1)."""

from maskaq_jax.quantizers.codes import (
    ByteGrid,
    WeightCodes,
    activation_codes,
    byte_grid,
    weight_codes,
    weight_codes_on_grid,
)
from maskaq_jax.quantizers.fake import (
    FULL_PRECISION_BITS,
    MAX_BITS,
    MIN_BITS,
    ActivationQuantizer,
    WeightQuantizer,
    check_bits,
    quantize_activation,
    quantize_softmax,
    quantize_weight,
    quantize_weight_to_grid,
    step_gradient_scale,
)
from maskaq_jax.quantizers.ranges import (
    init_activation_quantizer,
    least_squares_activation_quantizer,
    least_squares_weight_steps,
)

__all__ = [
    "FULL_PRECISION_BITS",
    "MAX_BITS",
    "MIN_BITS",
    "ActivationQuantizer",
    "ByteGrid",
    "WeightCodes",
    "WeightQuantizer",
    "activation_codes",
    "byte_grid",
    "check_bits",
    "init_activation_quantizer",
    "least_squares_activation_quantizer",
    "least_squares_weight_steps",
    "quantize_activation",
    "quantize_softmax",
    "quantize_weight",
    "quantize_weight_to_grid",
    "step_gradient_scale",
    "weight_codes",
    "weight_codes_on_grid",
]
