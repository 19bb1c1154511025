"""Shifts and factors of channels that make a tensor easier to round, and the next kernel no harder.

Source: `docs/method.md` section 6. `x W + b = ((x - m) / r) (diag(r) W) + (b + m W)` is exact in
float, for any shift m and factor r of each channel. What r takes off the spread of the inputs it
adds to that of the weights, so it is chosen by the error that both roundings leave in the output.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import quantizers
from maskaq_jax.devices import arrays
from maskaq_jax.quantizers import FULL_PRECISION_BITS

Shift = Literal["none", "mean", "middle"]
Spread = Literal["range", "rms", "largest"]

# Exponents of the spread that are tried beside 0, which is no factor.
_EXPONENTS = (0.25, 0.5, 0.75, 1.0)
# Second-order rounding loses less than rounding to the nearest, as if there were one bit more.
_GAINED_BITS = 1


class Equalization(NamedTuple):
    """A change of a tensor's channels.

    Attributes:
      shift: [C] m, subtracted from the channels.
      factor: [C] r, which they are divided by then.
    """

    shift: Array
    factor: Array

    def apply(self, x: Array) -> Array:
        """[..., C] -> the same, equalized."""
        shape = (1,) * (x.ndim - 1) + (-1,)
        return (x - self.shift.reshape(shape)) / self.factor.reshape(shape)

    def in_norm(self, scale: Array, bias: Array) -> tuple[Array, Array]:
        """[C] gamma and beta of a norm -> of one with the output equalized.

        `gamma' = gamma / r`, `beta' = (beta - m) / r`.
        """
        return scale / self.factor, (bias - self.shift) / self.factor


def choose_equalization(
    inputs: Array,
    kernel: Array,
    weight_bits: int,
    activation_bits: int,
    shifts: Sequence[Shift] = ("none", "mean", "middle"),
    spreads: Sequence[Spread] = ("range", "rms"),
) -> Equalization:
    """The equalization of a dense layer's input that leaves the least squared error of its output.

    Tried are all shifts with the factors `spread^alpha` of all spreads and exponents alpha, and no
    change at all.

    Args:
      inputs: [T, C] a sample of the input.
      kernel: [C, out].
      weight_bits: 2 to 8, or 32.
      activation_bits: 2 to 8.
      shifts: what may be subtracted; 'none' alone where nothing behind can take it up.
      spreads: statistics that factors are powers of.
    """
    arrays.check_axes("inputs", inputs, "rows channels", "floating")
    arrays.check_axes("kernel", kernel, "channels out", "floating")
    arrays.check_same_shape(channels=inputs[0], rows_of_kernel=kernel[:, 0])
    candidates = [Equalization(jnp.zeros(inputs.shape[-1]), jnp.ones(inputs.shape[-1]))]
    for shift, spread, exponent in itertools.product(shifts, spreads, _EXPONENTS):
        centre = _centre(inputs, shift)
        candidates.append(Equalization(centre, _factor(inputs - centre[None], spread, exponent)))
    errors = [
        _output_error(inputs, kernel, candidate, weight_bits, activation_bits)
        for candidate in candidates
    ]
    return candidates[int(jnp.argmin(jnp.stack(errors)))]


def _centre(inputs: Array, shift: Shift) -> Array:
    """[C]."""
    if shift == "none":
        return jnp.zeros(inputs.shape[-1])
    if shift == "mean":
        return inputs.mean(axis=0)
    return (inputs.max(axis=0) + inputs.min(axis=0)) / 2


def _factor(inputs: Array, spread: Spread, exponent: float) -> Array:
    """[C], of geometric mean 1: the tensor's scale stays."""
    if spread == "range":
        values = inputs.max(axis=0) - inputs.min(axis=0)
    elif spread == "rms":
        values = jnp.sqrt(jnp.square(inputs).mean(axis=0))
    else:
        values = jnp.abs(inputs).max(axis=0)
    # A channel that hardly moves would get a factor near 0.
    values = jnp.maximum(values, 1e-3 * values.mean() + 1e-12) ** exponent
    return values / jnp.exp(jnp.log(values).mean())


@functools.partial(jax.jit, static_argnames=("weight_bits", "activation_bits"))
def _output_error(
    inputs: Array,
    kernel: Array,
    candidate: Equalization,
    weight_bits: int,
    activation_bits: int,
) -> Array:
    """[] mean squared error of the layer's output, of both roundings; its mean, which a bias mends,
    does not count.
    """
    equalized = candidate.apply(inputs)
    scaled = candidate.factor[:, None] * kernel
    importance = jnp.square(scaled).sum(axis=1)
    quantizer = quantizers.least_squares_activation_quantizer(
        equalized, activation_bits, importance
    )
    rounded = quantizers.quantize_activation(equalized, quantizer, activation_bits)
    if weight_bits != FULL_PRECISION_BITS:
        bits = min(quantizers.MAX_BITS, weight_bits + _GAINED_BITS)
        power = jnp.square(equalized).mean(axis=0)
        steps = quantizers.least_squares_weight_steps(scaled, bits, power)
        half = 2.0 ** (bits - 1)
        codes = jnp.clip(jnp.round(scaled / steps[None]), -half, half - 1)
        scaled = codes * steps[None]
    error = rounded @ scaled - (inputs - candidate.shift[None]) @ kernel
    return jnp.square(error - error.mean(axis=0, keepdims=True)).mean()
