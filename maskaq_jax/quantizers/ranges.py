"""First ranges of quantizers: the paper's formula, and least squares.

Sources: `docs/method.md` sections 1 and 6.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.devices import arrays
from maskaq_jax.quantizers.fake import ActivationQuantizer, check_bits, code_range

# A tensor whose smallest value lies below this gets a signed range.
_SIGNED_BELOW = 1e-5
# Values are counted in bins before ranges are compared: as fine as 8 bits need, many times over.
_NUM_BINS = 8192
# Ranges tried: the largest, and shrunken ones; then finer ones around the best, twice.
_COARSE = tuple(0.78**power for power in range(14))
_FINE_RATIOS = (0.8**0.33, 0.8**0.11)
_NUM_WEIGHT_STEPS = 25


def init_activation_quantizer(x: Array, bits: int) -> ActivationQuantizer:
    """Chooses step and zero point from a first batch: `a = 2 mean|x| / sqrt(hi)`,
    `z = 0.1 (min(x) - a hi)`. `docs/method.md` section 1.

        >>> quantizer = init_activation_quantizer(jnp.array([-1.0, 0.0, 1.0, 2.0]), bits=4)
        >>> print(quantizer.signed, f"{quantizer.step:.3f} {quantizer.zero_point:.3f}")
        True 0.756 -0.629

    Args:
      x: [...] values the quantizer will see.
      bits: 2 to 8.

    Raises:
      ValueError: bits are not 2 to 8; values are none, or not of floating dtype.
    """
    check_bits(bits)
    arrays.check_kind("x", x, "floating")
    _check_not_empty(x)
    x = x.astype(jnp.float32)
    signed = jnp.min(x) < _SIGNED_BELOW
    _, hi = code_range(signed, bits)
    step = 2 * jnp.mean(jnp.abs(x)) / jnp.sqrt(hi)
    # A tensor of zeros still needs a grid to divide by.
    step = jnp.maximum(step, jnp.finfo(jnp.float32).tiny)
    zero_point = 0.1 * (jnp.min(x) - step * hi)
    return ActivationQuantizer(step, zero_point, signed, jnp.float32(x.size))


@functools.partial(jax.jit, static_argnames="bits")
def least_squares_activation_quantizer(
    x: Array, bits: int, importance: Array | None = None
) -> ActivationQuantizer:
    """Chooses step and zero point by the least squared rounding error.

    `argmin over (low, high) of sum_tc v_c (x_tc - x^_tc)^2`, with codes 0 to 2^k - 1, step
    `(high - low) / (2^k - 1)` and an integer zero point, over a grid of ranges inside the values'
    own, which always hold 0. `docs/method.md` section 6.

        >>> x = jnp.array([[-1.0], [0.0], [1.0], [2.0]])
        >>> quantizer = least_squares_activation_quantizer(x, bits=2)
        >>> print(f"{quantizer.step:.2f} {quantizer.zero_point:.0f}")
        1.00 1

    Args:
      x: [..., C] values the quantizer will see.
      bits: 2 to 8.
      importance: [C] weights v of the channels, such as the squared norms of the rows that they
        meet in the next layer's kernel; None for 1.

    Returns:
      An unsigned quantizer.

    Raises:
      ValueError: bits are not 2 to 8; values are none, or not of floating dtype; or importance is
        not one number a channel.
    """
    check_bits(bits)
    arrays.check_axes("x", x, "... channels", "floating")
    _check_not_empty(x)
    if importance is not None:
        arrays.check_axes("importance", importance, "channels", channels=x.shape[-1])
    levels = 2.0**bits - 1
    x = x.astype(jnp.float32).reshape(-1, x.shape[-1])
    low, high = jnp.minimum(x.min(), 0.0), jnp.maximum(x.max(), 0.0)
    centres, mass = _histogram(x, x.min(), x.max(), importance)

    def best_range(lows: Array, highs: Array) -> tuple[Array, Array]:
        """The best pair of ends, of all pairs."""
        lows, highs = (end.ravel() for end in jnp.meshgrid(lows, highs, indexing="ij"))
        error = functools.partial(_rounding_error, centres, mass, levels=levels)
        errors = jax.vmap(error)(lows, highs)
        best = jnp.argmin(errors)
        return lows[best], highs[best]

    coarse = jnp.asarray(_COARSE)
    best_low, best_high = best_range(low * coarse, high * coarse)
    for ratio in _FINE_RATIOS:
        around = ratio ** jnp.arange(-2.0, 3.0)
        best_low, best_high = best_range(best_low * around, best_high * around)
    step, zero_point = _grid_of_range(best_low, best_high, levels)
    return ActivationQuantizer(step, zero_point, jnp.asarray(False), jnp.float32(x.size))


@functools.partial(jax.jit, static_argnames="bits")
def least_squares_weight_steps(kernel: Array, bits: int, importance: Array | None = None) -> Array:
    """Step of each output channel by the least squared rounding error.

    `argmin over a of sum_i v_i (w_io - a clip(round(w_io / a), -2^(k-1), 2^(k-1) - 1))^2`, over
    shares of the step that the channel's largest weight asks for. `docs/method.md` section 6.

        >>> kernel = jnp.array([[0.1, 1.0], [-0.4, -3.0]])
        >>> print(least_squares_weight_steps(kernel, bits=3).round(3))
        [0.1   0.771]

    Args:
      kernel: [in, out].
      bits: 2 to 8.
      importance: [in] weights v, such as the mean square of each input; None for 1.

    Returns:
      [out] float32 steps.

    Raises:
      ValueError: bits are not 2 to 8; the kernel has other axes, or is not of floating dtype; or
        importance is not one number a row of the kernel.
    """
    check_bits(bits)
    arrays.check_axes("kernel", kernel, "in out", "floating")
    if importance is not None:
        arrays.check_shape("importance", importance, kernel.shape[:1])
    half = 2.0 ** (bits - 1)
    largest = 2 * jnp.maximum(jnp.abs(kernel).max(axis=0), 1e-8) / (2.0**bits - 1)
    weights = jnp.ones(len(kernel)) if importance is None else importance

    def error(share: Array) -> Array:
        step = (share * largest)[None]
        rounded = step * jnp.clip(jnp.round(kernel / step), -half, half - 1)
        return weights @ jnp.square(kernel - rounded)

    shares = jnp.linspace(0.4, 1.0, _NUM_WEIGHT_STEPS)
    errors = jax.lax.map(error, shares)
    return shares[jnp.argmin(errors, axis=0)] * largest


def _check_not_empty(x: Array) -> None:
    if not x.size:
        raise ValueError(f"x must have values to choose a range by, got shape {x.shape}")


def _histogram(x: Array, low: Array, high: Array, importance: Array | None) -> tuple[Array, Array]:
    """Centres of bins and the weight of the values in each, [bins] float32."""
    width = jnp.maximum((high - low) / _NUM_BINS, jnp.finfo(jnp.float32).tiny)
    bins = jnp.clip(jnp.floor((x - low) / width), 0, _NUM_BINS - 1).astype(jnp.int32)
    weights = jnp.ones(x.shape[-1]) if importance is None else importance / importance.mean()
    mass = jnp.zeros(_NUM_BINS).at[bins].add(jnp.broadcast_to(weights[None], x.shape))
    return low + (jnp.arange(_NUM_BINS) + 0.5) * width, mass


def _grid_of_range(low: Array, high: Array, levels: float) -> tuple[Array, Array]:
    """Step, and the zero point as an integer, of codes 0 to `levels`."""
    step = jnp.maximum((high - low) / levels, jnp.finfo(jnp.float32).tiny)
    return step, jnp.clip(jnp.round(-low / step), 0, levels)


def _rounding_error(centres: Array, mass: Array, low: Array, high: Array, levels: float) -> Array:
    """[] weighted squared error of rounding to the grid of a range."""
    step, zero_point = _grid_of_range(low, high, levels)
    codes = jnp.clip(jnp.round(centres / step) + zero_point, 0, levels)
    return mass @ jnp.square(centres - (codes - zero_point) * step)
