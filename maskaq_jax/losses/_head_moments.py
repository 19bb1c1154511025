"""Means and covariances of attention rows between heads, with a backward pass of their own.

A row is min-max normalised, `x = (a - min a) / d` with `d = max a - min a + 1e-8`. Since that is
affine, moments of x follow from those of a, and neither x nor anything else of a's size needs to be
kept for the backward pass, which is one sum over heads and one pass over a.
"""

import jax
import jax.numpy as jnp
from jax import Array

_SMALLEST_RANGE = 1e-8


@jax.custom_vjp
def normalised_moments(rows: Array) -> tuple[Array, Array]:
    """Moments of normalised rows over their last axis.

    Where values of a row tie for its smallest or largest, they share the gradient. Plain windows of
    a Swin, whose patches are all alike, have rows of one value: x is 0 there, and so is what
    changes it.

    Args:
      rows: [B, H, n, k] float32, not yet normalised.

    Returns:
      Means [B, H, n]; covariances of all pairs of heads [B, H, H, n], on the diagonal variances.
    """
    return _forward(rows)[0]


def _forward(rows: Array) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    low, high = rows.min(axis=-1), rows.max(axis=-1)
    # The mean of equal values is not quite their value, and what is left would be divided by 1e-8.
    mean = jnp.where(low == high, low, rows.mean(axis=-1))
    span = high - low + _SMALLEST_RANGE
    centred = (rows - mean[..., None]) / span[..., None]
    # All pairs of heads at once: a Gram matrix per query.
    covariance = jnp.einsum("bhqk,bgqk->bhgq", centred, centred) / rows.shape[-1]
    mean_x = (mean - low) / span
    return (mean_x, covariance), (rows, low, high, mean, mean_x, covariance)


def _backward(residuals: tuple[Array, ...], cotangents: tuple[Array, Array]) -> tuple[Array]:
    rows, low, high, mean, mean_x, covariance = residuals
    d_mean, d_covariance = cotangents
    span = high - low + _SMALLEST_RANGE
    d_covariance = d_covariance + jnp.swapaxes(d_covariance, 1, 2)
    d_span = -(d_mean * mean_x + (d_covariance * covariance).sum(axis=2)) / span
    d_low = -d_mean / span - d_span
    # Of a: through the covariances, which don't change with the mean; through the mean; and at the
    # ends of the range.
    weights = d_covariance / (span[:, :, None] * span[:, None]) / rows.shape[-1]
    gradient = (d_mean / span / rows.shape[-1])[..., None]
    # Heads are few: an unrolled sum is one pass, where a product would transpose.
    for head in range(rows.shape[1]):
        centred = rows[:, head] - mean[:, head, :, None]
        gradient = gradient + weights[:, :, head, :, None] * centred[:, None]
    for end, slope in ((high, d_span), (low, d_low)):
        is_end = rows == end[..., None]
        gradient = gradient + jnp.where(is_end, (slope / is_end.sum(axis=-1))[..., None], 0.0)
    return (gradient,)


normalised_moments.defvjp(_forward, _backward)
