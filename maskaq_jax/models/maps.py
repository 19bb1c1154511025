"""Maps [B, rows, columns, C] of another size, as PyTorch resamples them."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def resize_bilinear(x: Array, rows: int, columns: int) -> Array:
    """Bilinear between the centres of places; borders are repeated, and nothing is smoothed before.

    `interpolate(mode="bilinear", align_corners=False)`.
    """
    # Of a program for any batch the length is no number.
    shape = (x.shape[0], rows, columns, x.shape[-1])
    return jax.image.resize(x, shape, "linear", antialias=False)


def resize_nearest(x: Array, rows: int, columns: int) -> Array:
    """The place that `row * old // new` falls on: `interpolate(mode="nearest")`."""
    old_rows, old_columns = x.shape[1:3]
    x = jnp.take(x, np.arange(rows) * old_rows // rows, axis=1)
    return jnp.take(x, np.arange(columns) * old_columns // columns, axis=2)


def pool(x: Array, size: int) -> Array:
    """Means over `size` by `size` bins: [B, rows, columns, C] -> [B, size, size, C].

    Bins are uneven, and overlap, where `size` doesn't divide the map: bin i of n places is from
    `floor(i n / size)` to `ceil((i + 1) n / size)` (`AdaptiveAvgPool2d`).
    """
    by_row, by_column = (jnp.asarray(bins(length, size), x.dtype) for length in x.shape[1:3])
    return jnp.einsum("ir,jc,brcf->bijf", by_row, by_column, x)


def bins(length: int, size: int) -> np.ndarray:
    """[size, length] share of each place in each bin's mean."""
    shares = np.zeros((size, length), np.float32)
    for i in range(size):
        first, end = i * length // size, -(-(i + 1) * length // size)
        shares[i, first:end] = 1 / (end - first)
    return shares
