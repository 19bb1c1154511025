"""Where pixels are: in an image, and as a shape in it sees them."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def centres(height: int, width: int) -> tuple[Array, Array]:
    """[height, width] rows and columns of the pixels' centres, as shares of the sides."""
    rows, columns = ((jnp.arange(size) + 0.5) / size for size in (height, width))
    down, right = jnp.meshgrid(rows, columns, indexing="ij")
    return down, right


def own_axes(
    rows: Array, columns: Array, centre: Array, angle: ArrayLike, radius: Array, stretch: Array
) -> tuple[Array, Array]:
    """[height, width] along and across a shape, in its half-widths.

    Args:
      rows: [height, width] of `centres`.
      columns: the same.
      centre: [2] of the shape, as `centres` has it.
      angle: [] of its first axis.
      radius: [] half of its width along that.
      stretch: [] share of it that the other half-width is.
    """
    down, right = rows - centre[0], columns - centre[1]
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    along = (right * cosine + down * sine) / radius
    across = (down * cosine - right * sine) / (radius * stretch)
    return along, across


def between(low: float, high: float, share: Array) -> Array:
    """What lies at a share of the way from `low` to `high`."""
    return low + (high - low) * share
