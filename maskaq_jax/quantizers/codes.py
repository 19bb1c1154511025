"""Integers of quantized weights and activations, by the rules of the fake quantizers.

`fake` rounds to values on a grid, which training needs; here are the codes that stand for them,
which a runtime computes with. The values of codes are those of `fake`, bit for bit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from maskaq_jax.devices import arrays
from maskaq_jax.quantizers import fake
from maskaq_jax.quantizers.fake import ActivationQuantizer, WeightQuantizer

# A smaller span counts as this one (`fake.scaled_weight_codes`).
_LEAST_SPAN = 1e-8
_LARGEST_BYTE = 255


class WeightCodes(NamedTuple):
    """A quantized weight: a code c stands for `c * step` of its output channel.

    Where steps follow from the channel's largest weight the value is `c / s`, with the scale s of
    `fake.quantize_weight`, and may differ from `c * step` in its last bit.

    Attributes:
      codes: [..., out] int8 in `[-2^(k-1), 2^(k-1) - 1]`.
      step: [out] float32.
      span: [out] float32 `max(2 max|w|, 1e-8)`, which steps follow from; None where they are kept.
      bits: k, 2 to 8.
    """

    codes: Array
    step: Array
    span: Array | None
    bits: int

    def values(self) -> Array:
        """[..., out] float32: what `fake` rounds the weight to."""
        if self.span is None:
            return self.codes * self._by_channel(self.step)
        return self.codes / fake.scale_of_span(self._by_channel(self.span), self.bits)

    def weight(self) -> Array:
        """[..., out] float32: a weight that `fake` rounds to `values` again, bit for bit.

        Their own values would not do where steps follow from the largest weight: the lowest code's
        is larger than that. So values are cut off at the span's ends, one of which is reached.
        """
        if self.span is None:
            return self.values()
        span, half = self._by_channel(self.span), 2 ** (self.bits - 1)
        values = jnp.clip(self.values(), -span / 2, span / 2)
        # The largest weight had an end code; or it was negative, and its tie was rounded up.
        is_lowest, is_highest = self.codes == -half, self.codes == half - 1
        axes = tuple(range(self.codes.ndim - 1))
        is_rounded_up = ~jnp.any(is_lowest | is_highest, axis=axes, keepdims=True)
        is_largest_below = is_rounded_up & (self.codes == 1 - half)
        is_known = span > jnp.float32(_LEAST_SPAN)
        values = jnp.where(is_known & is_highest, span / 2, values)
        return jnp.where(is_known & is_largest_below, -span / 2, values)

    def map(self, change: Callable[[Array], Any]) -> "WeightCodes":
        """The same with every array changed, as by `numpy.asarray`."""
        span = None if self.span is None else change(self.span)
        return WeightCodes(change(self.codes), change(self.step), span, self.bits)

    def _by_channel(self, values: Array) -> Array:
        """[out] -> [1, ..., out]."""
        return values.reshape((1,) * (self.codes.ndim - 1) + (-1,))


class ByteGrid(NamedTuple):
    """An activation's grid in unsigned bytes: b stands for `(b - zero_point + excess) step`.

    The byte of a code c of `fake.ActivationQuantizer` is `c + shift`.

    Attributes:
      step: a float32.
      zero_point: 0 to 255.
      lowest, highest: the bytes that there are, 0 to 255.
      excess: 0, or for a grid of 8 bits that does not reach 0 the steps that it lies above.
      shift: from codes to bytes.
    """

    step: float
    zero_point: int
    lowest: int
    highest: int
    excess: int
    shift: int

    def round(self, x: Array) -> Array:
        """[...] float32 values -> bytes, uint8.

        Raises:
          ValueError: values that are not of floating dtype.
        """
        arrays.check_kind("x", x, "floating")
        offset = self.zero_point - self.excess
        levels, _ = fake.round_to_levels(
            x / jnp.float32(self.step),
            jnp.float32(offset - self.shift),
            jnp.float32(self.lowest - self.shift),
            jnp.float32(self.highest - self.shift),
        )
        return (levels + offset).astype(jnp.uint8)

    def values(self, codes: Array) -> Array:
        """[...] uint8 -> float32: what `fake.quantize_activation` gives.

        Raises:
          ValueError: codes that are no bytes.
        """
        arrays.check_kind("codes", codes, "uint8")
        levels = codes.astype(jnp.int32) - (self.zero_point - self.excess)
        return levels.astype(jnp.float32) * jnp.float32(self.step)


def weight_codes(w: Array, bits: int) -> WeightCodes:
    """Codes of `fake.quantize_weight`.

        >>> print(weight_codes(jnp.array([[0.1, 1.0], [-0.4, -3.0]]), bits=2).codes)
        [[ 0  0]
         [-2 -2]]

    Args:
      w: [..., out] float32.
      bits: 2 to 8.

    Raises:
      ValueError: as of `fake.quantize_weight`.
    """
    codes, scale, span = fake.scaled_weight_codes(w, bits)
    return WeightCodes(codes.astype(jnp.int8), 1 / scale.reshape(-1), span.reshape(-1), bits)


def weight_codes_on_grid(w: Array, quantizer: WeightQuantizer, bits: int) -> WeightCodes:
    """Codes of `fake.quantize_weight_to_grid`; its arguments."""
    in_steps, step = fake.weight_in_steps(w, quantizer, bits)
    return WeightCodes(jnp.round(in_steps).astype(jnp.int8), step.reshape(-1), None, bits)


def byte_grid(quantizer: ActivationQuantizer, bits: int) -> ByteGrid:
    """The grid of `fake.quantize_activation` in bytes, on the host.

    Raises:
      ValueError: bits are not 2 to 8; the quantizer has more than one step; or the step is no
        positive number, or the zero point is none that float32 counts by ones, and no integers
        stand for the grid.
    """
    fake.check_bits(bits)
    fake.check_one_grid(quantizer)
    step, zero_point = (
        float(jnp.reshape(value, ())) for value in (quantizer.step, quantizer.zero_point)
    )
    if not 0 < step < float("inf") or not abs(zero_point) < 2**24:
        raise ValueError(
            f"a quantizer of step {step:g} and zero point {zero_point:g} has no integer codes"
        )
    # Once, in float32 and half to even, as the fake quantizer does.
    rounded = int(jnp.round(jnp.float32(zero_point)))
    lo, hi = (int(end) for end in fake.code_range(quantizer.signed, bits))
    lowest, highest = lo - rounded, hi - rounded
    zero = max(0, -lowest)
    if zero <= _LARGEST_BYTE and zero + highest <= _LARGEST_BYTE:
        return ByteGrid(step, zero, zero + lowest, zero + highest, 0, zero - rounded)
    return ByteGrid(step, 0, 0, hi - lo, lowest, -lo)


def activation_codes(x: Array, quantizer: ActivationQuantizer, bits: int) -> Array:
    """[...] float32 -> the codes of `fake.quantize_activation`, int32 in its range.

        >>> quantizer = ActivationQuantizer(step=0.5, zero_point=1.0, signed=False)
        >>> print(activation_codes(jnp.array([-2.0, 0.3, 0.8]), quantizer, bits=2))
        [0 2 3]

    Args:
      x: values.
      quantizer: the grid; its zero point and step on the host.
      bits: 2 to 8.

    Raises:
      ValueError: values that are not of floating dtype, or as of `byte_grid`.
    """
    arrays.check_kind("x", x, "floating")
    grid = byte_grid(quantizer, bits)
    return grid.round(x).astype(jnp.int32) - grid.shift
