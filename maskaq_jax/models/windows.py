"""A grid of tokens as windows, and back: the geometry of a Swin's attention."""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array

# Keeps tokens that only the shift made neighbours apart.
_MASKED = -100.0


def split_windows(x: Array, window: int) -> Array:
    """[B, rows, columns, C] -> [B * windows, window^2, C], an image's windows row by row."""
    batch, rows, columns, channels = x.shape
    x = x.reshape(batch, rows // window, window, columns // window, window, channels)
    return jnp.swapaxes(x, 2, 3).reshape(-1, window * window, channels)


def merge_windows(x: Array, window: int, rows: int, columns: int | None = None) -> Array:
    """The inverse of `split_windows`, to a grid of tokens, a square where no columns are given."""
    columns = columns or rows
    x = x.reshape(-1, rows // window, columns // window, window, window, x.shape[-1])
    return jnp.swapaxes(x, 2, 3).reshape(-1, rows, columns, x.shape[-1])


def pad_grid(x: Array, multiple: int) -> Array:
    """[B, rows, columns, C] with zeros below and to the right, up to multiples; often as it is."""
    below, right = (-size % multiple for size in x.shape[1:3])
    return jnp.pad(x, ((0, 0), (0, below), (0, right), (0, 0))) if below or right else x


@functools.cache
def relative_position_index(window: int) -> np.ndarray:
    """[window^2, window^2] row of the bias table for each query and key of a window."""
    position = np.stack(np.divmod(np.arange(window * window), window))
    row, column = position[:, :, None] - position[:, None] + window - 1
    return row * (2 * window - 1) + column


def shift_mask(rows: int, window: int, shift: int, columns: int | None = None) -> Array:
    """[windows, window^2, window^2] 0 for a query and a key that are neighbours in the image.

    Args:
      rows: of the grid of tokens.
      window: side of a window, which divides the grid.
      shift: by how much the grid is rolled.
      columns: of the grid; as many as rows where they are not given.
    """
    # Rolled by `shift`, the last window of each axis holds two parts of the image.
    row, column = (
        np.digitize(np.arange(size), [size - window, size - shift])
        for size in (rows, columns or rows)
    )
    parts = jnp.asarray(3 * row[:, None] + column)[None, :, :, None]
    parts = split_windows(parts, window)[..., 0]
    return jnp.where(parts[:, :, None] == parts[:, None], 0.0, _MASKED)
