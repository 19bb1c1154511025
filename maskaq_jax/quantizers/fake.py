"""Fake quantization of weights and activations with straight-through gradients.

Quantized values stay in floating point, on the grid their integer codes stand for, so the forward
pass is the low-bit model's and the backward pass can train it. A model that computes in bfloat16
rounds them once more: by up to half a step at 7 bits, and a whole one at 8. Source:
`docs/method.md` section 1; activations follow LSQ with a learned offset (Esser et al. 2020, Bhalgat
et al. 2020).
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from maskaq_jax.devices import arrays

MIN_BITS = 2
MAX_BITS = 8
FULL_PRECISION_BITS = 32


@flax.struct.dataclass
class ActivationQuantizer:
    """The learned uniform grid of one activation tensor.

    A code `c` in `[lo, hi]` stands for `(c - round(zero_point)) * step`, where `[lo, hi]` is
    `[-2^(k-1), 2^(k-1) - 1]` if `signed`, else `[0, 2^k - 1]`.

        >>> quantizer = ActivationQuantizer(step=0.5, zero_point=0.0, signed=True)
        >>> print(quantize_activation(jnp.array([0.3, -0.8, 9.0]), quantizer, bits=3))
        [ 0.5 -1.   1.5]

    Attributes:
      step: [] float32, distance between neighbouring values; trained.
      zero_point: [] float32, code of the value 0 before rounding; trained.
      signed: [] bool, fixed at initialisation.
      size: [] float32, number of values in the tensor that initialised it; it scales the gradient
        of `step` (see `step_gradient_scale`).
    """

    step: ArrayLike
    zero_point: ArrayLike
    signed: ArrayLike
    size: ArrayLike = 1.0


@flax.struct.dataclass
class WeightQuantizer:
    """The grid of a kernel that keeps its steps, where others follow from its largest weights.

    A code c in `[-2^(k-1), 2^(k-1) - 1]` stands for `c * step` of its output channel.

    Attributes:
      step: [out] float32, distance between neighbouring values; trained.
    """

    step: ArrayLike


def quantize_weight(w: Array, bits: int, channel_axis: int = -1) -> Array:
    """Rounds a weight to `bits`-bit codes, symmetric, one scale per output channel.

    `s_c = (2^k - 1) / (2 max|w_c|)`, `w^ = clip(round(s_c w), -2^(k-1), 2^(k-1) - 1) / s_c`. The
    gradient passes straight through, clipped entries included. `docs/method.md` section 1.

        >>> print(quantize_weight(jnp.array([[0.1, 1.0], [-0.4, -3.0]]), bits=2))
        [[ 0.          0.        ]
         [-0.53333336 -4.        ]]

    Args:
      w: [...] float32 weight.
      bits: 2 to 8.
      channel_axis: axis of the output channels.

    Returns:
      The quantized weight, shape and dtype of `w`.

    Raises:
      ValueError: bits are not 2 to 8, the weight is not of floating dtype or lacks that axis.
    """
    codes, scale, _ = scaled_weight_codes(w, bits, channel_axis)
    return _straight_through(codes / scale, w)


def scaled_weight_codes(w: Array, bits: int, channel_axis: int = -1) -> tuple[Array, Array, Array]:
    """What `quantize_weight` rounds a weight to, and by which scale.

    Args:
      w: [...] float32 weight.
      bits: 2 to 8.
      channel_axis: axis of the output channels.

    Returns:
      codes: integers in w's shape and dtype.
      scale: codes a unit of weight, s in `quantize_weight`; as w, with 1 for each other axis.
      span: `max(2 max|w_c|, 1e-8)`, of the scale's shape.

    Raises:
      ValueError: as of `quantize_weight`.
    """
    check_bits(bits)
    arrays.check_kind("w", w, "floating")
    if not -w.ndim <= channel_axis < w.ndim:
        raise ValueError(f"channel_axis={channel_axis} is no axis of a weight of shape {w.shape}")
    reduced = tuple(axis for axis in range(w.ndim) if axis != channel_axis % w.ndim)
    span = jnp.maximum(2 * jnp.max(jnp.abs(w), axis=reduced, keepdims=True), 1e-8)
    scale = scale_of_span(span, bits)
    half = 2 ** (bits - 1)
    return jnp.clip(jnp.round(scale * w), -half, half - 1), scale, span


def scale_of_span(span: Array, bits: int) -> Array:
    """`(2^k - 1) / span`."""
    # The channel's largest weight is a rounding tie. Reciprocal first gives the authors' codes; the
    # barrier keeps XLA from turning it into one division, or a division into a product, where
    # codes are divided by it.
    return jax.lax.optimization_barrier(1 / span) * (2**bits - 1)


def quantize_weight_to_grid(w: Array, quantizer: WeightQuantizer, bits: int) -> Array:
    """Rounds a weight to a grid that is kept: `w^ = a clip(round(w / a), -2^(k-1), 2^(k-1) - 1)`.

    The gradient passes straight through, clipped entries included; that of the step is LSQ's,
    `sum d (c - w / a)` over what is not clipped and `sum d c` over the rest. `docs/method.md`
    section 6.

    Args:
      w: [..., out] float32.
      quantizer: its grid.
      bits: 2 to 8.

    Returns:
      The quantized weight, shape and dtype of `w`.

    Raises:
      ValueError: bits are not 2 to 8, the weight is not of floating dtype, or steps are not one an
        output channel.
    """
    in_steps, step = weight_in_steps(w, quantizer, bits)
    rounded = step * (in_steps + jax.lax.stop_gradient(jnp.round(in_steps) - in_steps))
    return rounded + (w - jax.lax.stop_gradient(w))


def weight_in_steps(w: Array, quantizer: WeightQuantizer, bits: int) -> tuple[Array, Array]:
    """What `quantize_weight_to_grid` rounds: the weight in steps of its grid, cut off at its ends.

    Args:
      w: [..., out] float32; no gradient passes.
      quantizer: its grid.
      bits: 2 to 8.

    Returns:
      The weight in steps, of w's shape; and the steps, which broadcast to it.

    Raises:
      ValueError: as of `quantize_weight_to_grid`.
    """
    check_bits(bits)
    arrays.check_axes("w", w, "... out", "floating")
    arrays.check_axes("quantizer.step", quantizer.step, "out", "floating", out=w.shape[-1])
    half = 2.0 ** (bits - 1)
    step = jnp.reshape(jnp.asarray(quantizer.step), (1,) * (w.ndim - 1) + (-1,))
    return jnp.clip(jax.lax.stop_gradient(w) / step, -half, half - 1), step


def quantize_activation(
    x: Array, quantizer: ActivationQuantizer, bits: int, grad_scale: ArrayLike = 1.0
) -> Array:
    """Rounds an activation to the quantizer's grid.

    `v = round(clip(x/a + round(z), lo, hi))`, `y = (v - round(z)) a`, rounding half to even with
    identity gradient. `docs/method.md` section 1.

        >>> quantizer = ActivationQuantizer(step=0.5, zero_point=1.0, signed=False)
        >>> print(quantize_activation(jnp.array([-2.0, 0.3, 0.8]), quantizer, bits=2))
        [-0.5  0.5  1. ]

    Args:
      x: [...] values.
      quantizer: the grid.
      bits: 2 to 8.
      grad_scale: factor on the gradient of `step` alone (`g` of `docs/method.md`).

    Returns:
      The quantized values, shape and dtype of `x`.

    Raises:
      ValueError: bits are not 2 to 8, values are not of floating dtype, or the quantizer has more
        than one step.
    """
    arrays.check_kind("x", x, "floating")
    grid = _grid(quantizer, bits, grad_scale)
    return _round_to_grid(x.astype(jnp.float32), *grid).astype(x.dtype)


def quantize_softmax(
    logits: Array, quantizer: ActivationQuantizer, bits: int, grad_scale: ArrayLike = 1.0
) -> Array:
    """`quantize_activation` of the softmax over the last axis, up to float32's rounding.

    In fewer passes: its backward pass keeps the exponentials, and of their sum one number a row.

        >>> quantizer = ActivationQuantizer(step=0.25, zero_point=0.0, signed=False)
        >>> print(quantize_softmax(jnp.array([0.0, 1.0, 2.0]), quantizer, bits=3))
        [0.   0.25 0.75]

    Args:
      logits: [..., N] values.
      quantizer: the grid of the probabilities.
      bits: 2 to 8.
      grad_scale: factor on the gradient of `step` alone.

    Returns:
      [..., N] float32 quantized probabilities.

    Raises:
      ValueError: as of `quantize_activation`.
    """
    arrays.check_kind("logits", logits, "floating")
    grid = _grid(quantizer, bits, grad_scale)
    return _round_softmax_to_grid(logits.astype(jnp.float32), *grid)


def step_gradient_scale(
    quantizer: ActivationQuantizer, bits: int, lsq_grad_scale: float = 1.0
) -> Array:
    """`g = lsq_grad_scale / sqrt(numel(x) hi)`, with numel of the initialising batch."""
    _, hi = code_range(quantizer.signed, bits)
    return lsq_grad_scale / jnp.sqrt(quantizer.size * hi)


def check_bits(bits: int) -> None:
    """Raises ValueError for bits that are not 2 to 8."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits must be {MIN_BITS} to {MAX_BITS}, got {bits}")


def check_one_grid(quantizer: ActivationQuantizer) -> None:
    """Raises ValueError for a quantizer of more than one step or zero point."""
    if jnp.size(quantizer.step) != 1 or jnp.size(quantizer.zero_point) != 1:
        raise ValueError(
            f"a quantizer has one step and one zero point, got shapes {jnp.shape(quantizer.step)} "
            f"and {jnp.shape(quantizer.zero_point)}"
        )


def code_range(signed: ArrayLike, bits: int) -> tuple[Array, Array]:
    """Smallest and largest code, [] float32 each (`docs/method.md` section 1)."""
    hi = jnp.where(signed, 2.0 ** (bits - 1) - 1, 2.0**bits - 1)
    return hi - (2.0**bits - 1), hi


def _grid(
    quantizer: ActivationQuantizer, bits: int, grad_scale: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    """Step, with its gradient scaled; zero point; smallest and largest code; all of shape []."""
    check_bits(bits)
    check_one_grid(quantizer)
    # Scalars; arrays of one element, as PyTorch code stores them, are accepted too.
    step, zero_point = jnp.reshape(quantizer.step, ()), jnp.reshape(quantizer.zero_point, ())
    step = _straight_through(step, step * grad_scale)
    return step, zero_point, *code_range(quantizer.signed, bits)


def _straight_through(value: Array, x: Array) -> Array:
    """`value` forward, the gradient of `x` backward; exact, since `x - x` is 0."""
    return jax.lax.stop_gradient(value) + (x - jax.lax.stop_gradient(x))


@jax.custom_vjp
def _round_to_grid(x: Array, step: Array, zero_point: Array, lo: Array, hi: Array) -> Array:
    """`quantize_activation` of float32, with the gradient of rounding set to the identity.

    Its backward pass reads x and the cotangent once, where that of the composed formula has four
    sums over them. Bounds count as inside the range, where `jnp.clip` would give half a gradient.
    """
    codes, _ = round_to_levels(x / step, zero_point, lo, hi)
    return codes * step


def round_to_levels(
    in_steps: Array, zero_point: Array, lo: Array, hi: Array
) -> tuple[Array, Array]:
    """How many steps from 0 values are rounded to, and where they are inside the range."""
    zero_point = jnp.round(zero_point)
    exact = in_steps + zero_point
    return jnp.round(jnp.clip(exact, lo, hi)) - zero_point, (exact >= lo) & (exact <= hi)


def _round_to_grid_forward(*values: Array) -> tuple[Array, tuple[Array, ...]]:
    return _round_to_grid(*values), values


def _round_to_grid_backward(
    values: tuple[Array, ...], cotangent: Array
) -> tuple[Array, Array, Array, None, None]:
    x, step, *rest = values
    return *_pull_back(cotangent, x / step, step, *rest), None, None


def _pull_back(
    cotangent: Array, in_steps: Array, step: Array, zero_point: Array, lo: Array, hi: Array
) -> tuple[Array, Array, Array]:
    """Gradients of the values, which are counted in steps, of the step and of the zero point."""
    codes, inside = round_to_levels(in_steps, zero_point, lo, hi)
    d_values = jnp.where(inside, cotangent, 0)
    # Outside the range a value may be infinitely many steps.
    d_step = jnp.sum(cotangent * codes - jnp.where(inside, cotangent * in_steps, 0))
    d_zero_point = step * jnp.sum(d_values - cotangent)
    return d_values, d_step, d_zero_point


_round_to_grid.defvjp(_round_to_grid_forward, _round_to_grid_backward)


@jax.custom_vjp
def _round_softmax_to_grid(
    logits: Array, step: Array, zero_point: Array, lo: Array, hi: Array
) -> Array:
    """`_round_to_grid` of `p = e / sum e`, `e = exp(logits - max)`, of float32 logits.

    Backward, with the gradient d of p: `p (d - sum p d)`.
    """
    return _round_softmax_forward(logits, step, zero_point, lo, hi)[0]


def _round_softmax_forward(
    logits: Array, step: Array, *rest: Array
) -> tuple[Array, tuple[Array, ...]]:
    exponentials = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    inverse_sum = 1 / exponentials.sum(axis=-1, keepdims=True)
    codes, _ = round_to_levels(exponentials * (inverse_sum / step), *rest)
    return codes * step, (exponentials, inverse_sum, step, *rest)


def _round_softmax_backward(
    residuals: tuple[Array, ...], cotangent: Array
) -> tuple[Array, Array, Array, None, None]:
    exponentials, inverse_sum, step, *rest = residuals
    in_steps = exponentials * (inverse_sum / step)
    d_probabilities, d_step, d_zero_point = _pull_back(cotangent, in_steps, step, *rest)
    weighted = d_probabilities * exponentials
    total = weighted.sum(axis=-1, keepdims=True)
    d_logits = inverse_sum * weighted - exponentials * (jnp.square(inverse_sum) * total)
    return d_logits, d_step, d_zero_point, None, None


_round_softmax_to_grid.defvjp(_round_softmax_forward, _round_softmax_backward)
