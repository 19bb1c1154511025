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

MIN_BITS = 2
MAX_BITS = 8
FULL_PRECISION_BITS = 32

# A tensor whose smallest value lies below this gets a signed range.
_SIGNED_BELOW = 1e-5


@flax.struct.dataclass
class ActivationQuantizer:
    """The learned uniform grid of one activation tensor.

    A code `c` in `[lo, hi]` stands for `(c - round(zero_point)) * step`, where `[lo, hi]` is
    `[-2^(k-1), 2^(k-1) - 1]` if `signed`, else `[0, 2^k - 1]`.

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


def quantize_weight(w: Array, bits: int, channel_axis: int = -1) -> Array:
    """Rounds a weight to `bits`-bit codes, symmetric, one scale per output channel.

    `s_c = (2^k - 1) / (2 max|w_c|)`, `w^ = clip(round(s_c w), -2^(k-1), 2^(k-1) - 1) / s_c`. The
    gradient passes straight through, clipped entries included. `docs/method.md` section 1.

    Args:
      w: [...] float32 weight.
      bits: 2 to 8.
      channel_axis: axis of the output channels.

    Returns:
      The quantized weight, shape and dtype of `w`.

    Raises:
      ValueError: bits are not 2 to 8.
    """
    _check_bits(bits)
    reduced = tuple(axis for axis in range(w.ndim) if axis != channel_axis % w.ndim)
    span = jnp.maximum(2 * jnp.max(jnp.abs(w), axis=reduced, keepdims=True), 1e-8)
    # The channel's largest weight is a rounding tie. Reciprocal first gives the authors' codes; the
    # barrier keeps XLA from turning it into one division, or a division into a product, below.
    scale = jax.lax.optimization_barrier(1 / span) * (2**bits - 1)
    codes = jnp.clip(jnp.round(scale * w), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return _straight_through(codes / scale, w)


def init_activation_quantizer(x: Array, bits: int) -> ActivationQuantizer:
    """Chooses step and zero point from a first batch: `a = 2 mean|x| / sqrt(hi)`,
    `z = 0.1 (min(x) - a hi)`. `docs/method.md` section 1.

    Args:
      x: [...] values the quantizer will see.
      bits: 2 to 8.
    """
    _check_bits(bits)
    x = x.astype(jnp.float32)
    signed = jnp.min(x) < _SIGNED_BELOW
    _, hi = _code_range(signed, bits)
    step = 2 * jnp.mean(jnp.abs(x)) / jnp.sqrt(hi)
    # A tensor of zeros still needs a grid to divide by.
    step = jnp.maximum(step, jnp.finfo(jnp.float32).tiny)
    zero_point = 0.1 * (jnp.min(x) - step * hi)
    return ActivationQuantizer(step, zero_point, signed, jnp.float32(x.size))


def quantize_activation(
    x: Array, quantizer: ActivationQuantizer, bits: int, grad_scale: ArrayLike = 1.0
) -> Array:
    """Rounds an activation to the quantizer's grid.

    `v = round(clip(x/a + round(z), lo, hi))`, `y = (v - round(z)) a`, rounding half to even with
    identity gradient. `docs/method.md` section 1.

    Args:
      x: [...] values.
      quantizer: the grid.
      bits: 2 to 8.
      grad_scale: factor on the gradient of `step` alone (`g` of `docs/method.md`).

    Returns:
      The quantized values, shape and dtype of `x`.

    Raises:
      ValueError: bits are not 2 to 8.
    """
    grid = _grid(quantizer, bits, grad_scale)
    return _round_to_grid(x.astype(jnp.float32), *grid).astype(x.dtype)


def quantize_softmax(
    logits: Array, quantizer: ActivationQuantizer, bits: int, grad_scale: ArrayLike = 1.0
) -> Array:
    """`quantize_activation` of the softmax over the last axis, up to float32's rounding.

    In fewer passes: its backward pass keeps the exponentials, and of their sum one number a row.

    Args:
      logits: [..., N] values.
      quantizer: the grid of the probabilities.
      bits: 2 to 8.
      grad_scale: factor on the gradient of `step` alone.

    Returns:
      [..., N] float32 quantized probabilities.

    Raises:
      ValueError: bits are not 2 to 8.
    """
    grid = _grid(quantizer, bits, grad_scale)
    return _round_softmax_to_grid(logits.astype(jnp.float32), *grid)


def step_gradient_scale(
    quantizer: ActivationQuantizer, bits: int, lsq_grad_scale: float = 1.0
) -> Array:
    """`g = lsq_grad_scale / sqrt(numel(x) hi)`, with numel of the initialising batch."""
    _, hi = _code_range(quantizer.signed, bits)
    return lsq_grad_scale / jnp.sqrt(quantizer.size * hi)


def _check_bits(bits: int) -> None:
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits must be {MIN_BITS} to {MAX_BITS}, got {bits}")


def _code_range(signed: ArrayLike, bits: int) -> tuple[Array, Array]:
    hi = jnp.where(signed, 2.0 ** (bits - 1) - 1, 2.0**bits - 1)
    return hi - (2.0**bits - 1), hi


def _grid(
    quantizer: ActivationQuantizer, bits: int, grad_scale: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    """Step, with its gradient scaled; zero point; smallest and largest code; all of shape []."""
    _check_bits(bits)
    # Scalars; arrays of one element, as PyTorch code stores them, are accepted too.
    step, zero_point = jnp.reshape(quantizer.step, ()), jnp.reshape(quantizer.zero_point, ())
    step = _straight_through(step, step * grad_scale)
    return step, zero_point, *_code_range(quantizer.signed, bits)


def _straight_through(value: Array, x: Array) -> Array:
    """`value` forward, the gradient of `x` backward; exact, since `x - x` is 0."""
    return jax.lax.stop_gradient(value) + (x - jax.lax.stop_gradient(x))


@jax.custom_vjp
def _round_to_grid(x: Array, step: Array, zero_point: Array, lo: Array, hi: Array) -> Array:
    """`quantize_activation` of float32, with the gradient of rounding set to the identity.

    Its backward pass reads x and the cotangent once, where that of the composed formula has four
    sums over them. Bounds count as inside the range, where `jnp.clip` would give half a gradient.
    """
    codes, _ = _codes(x / step, zero_point, lo, hi)
    return codes * step


def _codes(in_steps: Array, zero_point: Array, lo: Array, hi: Array) -> tuple[Array, Array]:
    """What values, counted in steps, are rounded to, and where they are inside the range."""
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
    codes, inside = _codes(in_steps, zero_point, lo, hi)
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
    codes, _ = _codes(exponentials * (inverse_sum / step), *rest)
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
