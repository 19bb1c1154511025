"""Second-order rounding of a kernel: what one input channel's rounding loses, later ones make up.

Source: `docs/method.md` section 6 (GPTQ: Frantar et al. 2023, arXiv 2210.17323). Everything is
closed form, of the inputs' gram matrix; no training.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import quantizers
from maskaq_jax.devices import arrays

# Input channels that are rounded before the others are told: their products are one matrix product.
_BLOCK = 128


@functools.partial(jax.jit, static_argnames="bits")
def round_kernel(
    kernel: Array, gram: Array, steps: Array, bits: int, damping: float = 0.02
) -> Array:
    """Rounds a kernel so that `(W - W^)^T G (W - W^)` stays small, for the inputs' gram matrix G.

    Channels go in the order of their power. With `U^T U = (G + damping mean(diag G) I)^-1`, U upper
    triangular, channel j is rounded, and `U_jk / U_jj` times its error is taken off each channel
    k that is still to come.

    Args:
      kernel: [in, out] float32.
      gram: [in, in] of the rounded inputs, `X^T X` or its mean.
      steps: [out] of the grid.
      bits: 2 to 8.
      damping: share of the mean power added to all channels' own.

    Returns:
      [in, out] float32 on the grid.

    Raises:
      ValueError: arrays of other shapes, or bits that are not 2 to 8.
    """
    arrays.check_axes("kernel", kernel, "in out", "floating")
    num_inputs, num_outputs = kernel.shape
    arrays.check_same_shape(gram=gram, inputs_squared=jnp.empty((num_inputs, num_inputs)))
    arrays.check_same_shape(steps=steps, outputs=kernel[0])
    quantizers.check_bits(bits)
    order = jnp.argsort(-jnp.diagonal(gram))
    padding = -num_inputs % _BLOCK
    # Channels that pad the last block are independent of all others.
    padded = jnp.pad(kernel[order], ((0, padding), (0, 0)))
    factor = jnp.eye(num_inputs + padding)
    factor = factor.at[:num_inputs, :num_inputs].set(
        _inverse_factor(gram[order][:, order], damping)
    )
    half = 2.0 ** (bits - 1)

    def round_block(left: Array, start: Array) -> tuple[Array, Array]:
        """Rounds the block at `start`; what is left of the kernel takes its error off."""
        own = jax.lax.dynamic_slice(factor, (start, 0), (_BLOCK, len(factor)))
        inside = jax.lax.dynamic_slice(own, (0, start), (_BLOCK, _BLOCK))

        def round_channel(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, ...]:
            block, rounded, errors = carry
            codes = jnp.clip(jnp.round(block[j] / steps), -half, half - 1)
            error = (block[j] - codes * steps) / inside[j, j]
            # Column j itself is done, and so are those before it, where the factor is 0.
            block = block - inside[j][:, None] * error[None]
            return block, rounded.at[j].set(codes * steps), errors.at[j].set(error)

        block = jax.lax.dynamic_slice(left, (start, 0), (_BLOCK, num_outputs))
        zeros = jnp.zeros_like(block)
        _, rounded, errors = jax.lax.fori_loop(0, _BLOCK, round_channel, (block, zeros, zeros))
        is_later = jnp.arange(len(factor)) >= start + _BLOCK
        left = left - jnp.where(is_later[None], own, 0.0).T @ errors
        return left, rounded

    starts = jnp.arange(0, len(factor), _BLOCK)
    _, blocks = jax.lax.scan(round_block, padded, starts)
    rounded = blocks.reshape(-1, num_outputs)[:num_inputs]
    return jnp.zeros_like(kernel).at[order].set(rounded)


@jax.jit
def fit_kernel(kernel: Array, gram: Array, moments: Array, ridge: float = 0.3) -> Array:
    """The kernel whose outputs come closest to given ones, near the one there is.

    `argmin_V |X V - Y|^2 + ridge mean(diag X^T X) |V - W|^2`: what the layers before have lost is
    made up as far as this one can.

    Args:
      kernel: [in, out] W.
      gram: [in, in] `X^T X` of the inputs, centred if a bias follows.
      moments: [in, out] `X^T Y` with the outputs wanted, centred likewise.
      ridge: how near.

    Raises:
      ValueError: arrays of other shapes.
    """
    arrays.check_axes("kernel", kernel, "in out", "floating")
    arrays.check_same_shape(gram=gram, inputs_squared=jnp.empty((len(kernel), len(kernel))))
    arrays.check_same_shape(kernel=kernel, moments=moments)
    power = ridge * jnp.diagonal(gram).mean() + jnp.finfo(jnp.float32).tiny
    factor = jax.scipy.linalg.cho_factor(gram + power * jnp.eye(len(gram)))
    return jax.scipy.linalg.cho_solve(factor, moments + power * kernel)


def _inverse_factor(gram: Array, damping: float) -> Array:
    """Upper triangular U with `U^T U` the inverse of the damped gram matrix.

    By the factor of the matrix read backwards: if `J G J = L L^T` for the reversal J, then
    `G^-1 = U^T U` with `U = J L^-1 J`.
    """
    power = damping * jnp.diagonal(gram).mean() + jnp.finfo(jnp.float32).tiny
    damped = gram + power * jnp.eye(len(gram))
    lower = jnp.linalg.cholesky(damped[::-1, ::-1])
    inverse = jax.scipy.linalg.solve_triangular(lower, jnp.eye(len(gram)), lower=True)
    return inverse[::-1, ::-1]
