"""What a low-bit model's variables tell of each layer: steps, codes and bytes."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from maskaq_jax import models
from maskaq_jax.export import trees
from maskaq_jax.models import Model
from maskaq_jax.models.sites import EMBEDDING
from maskaq_jax.quantizers import FULL_PRECISION_BITS, WeightCodes
from maskaq_jax.report.contents import Layer

# More codes are shown together.
_MOST_BINS = 64
_FLOAT_BYTES = 4


def describe(model: Model, variables: Any) -> list[Layer]:
    """Every layer that has bits of its own, in the order of a pass.

    Args:
      model: Q.
      variables: its `params` and `quant`, host arrays.
    """
    return [
        _describe(model, variables, tuple(name.split("."))) for name in models.layer_names(model)
    ]


def count_bytes(model: Model, variables: Any) -> tuple[int, int]:
    """Bytes of the parameters in float32, and of the model with weights packed to their bits.

    Args:
      model: Q.
      variables: its `params` and `quant`.
    """
    params = trees.by_name(variables["params"])
    whole = _FLOAT_BYTES * sum(leaf.size for leaf in params.values())
    saved = 0
    for name in models.layer_names(model):
        path = tuple(name.split("."))
        kernel = trees.below(variables["params"], path).get(trees.KERNEL)
        quantization = trees.quantization_of(model, path)
        if kernel is None or quantization is None:
            continue
        bits = quantization.weight_bits
        if bits != FULL_PRECISION_BITS:
            # Beside the codes there is a step for each output channel.
            own = bits * math.ceil(kernel.size / 8) + _FLOAT_BYTES * kernel.shape[-1]
            saved += _FLOAT_BYTES * kernel.size - own
    quant = sum(leaf.size for leaf in jax.tree.leaves(variables.get("quant", {})))
    return whole, whole - saved + _FLOAT_BYTES * quant


def _describe(model: Model, variables: Any, path: tuple[str, ...]) -> Layer:
    quantization = trees.quantization_of(model, path)
    weight_bits, activation_bits = (
        (FULL_PRECISION_BITS, FULL_PRECISION_BITS)
        if quantization is None
        else (quantization.weight_bits, quantization.activation_bits)
    )
    is_dense = trees.KERNEL in trees.below(variables["params"], path)
    codes = trees.kernel_codes(model, variables, path) if is_dense else None
    quant: Any = trees.below(variables.get("quant", {}), path)
    quantizer = quant.get("input") if isinstance(quant, Mapping) else quant
    step, zero_point = (
        None if quantizer is None else float(np.asarray(getattr(quantizer, name)))
        for name in ("step", "zero_point")
    )
    return Layer(
        name=".".join(path),
        weight_bits=weight_bits if is_dense else None,
        activation_bits=None if path == EMBEDDING else activation_bits,
        weight_steps=None if codes is None else _steps(codes),
        code_shares=None if codes is None else _code_shares(codes),
        activation_step=step,
        zero_point=zero_point,
    )


def _steps(codes: WeightCodes) -> tuple[float, float, float]:
    steps = np.asarray(codes.step)
    return float(steps.min()), float(np.median(steps)), float(steps.max())


def _code_shares(codes: WeightCodes) -> np.ndarray:
    """[n] of all weights at each code, or at several where there are many."""
    values = np.asarray(codes.codes).reshape(-1)
    counts = np.bincount(values.astype(np.int16) + 2 ** (codes.bits - 1), minlength=2**codes.bits)
    bins = min(len(counts), _MOST_BINS)
    return counts.reshape(bins, -1).sum(axis=1) / len(values)
