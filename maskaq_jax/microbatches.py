"""Gradients with respect to images, of a few images at a time.

A loss that is a mean over images has a gradient for each of them that no other image is needed for.
Taken in parts, it needs the memory of one part; on a CPU that is faster too, since more of it stays
in the caches (`docs/performance.md`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

# What a part has at least: enough for an operation to take longer than its start. Measured, as
# `docs/performance.md` says.
_LEAST_IMAGES = 4
_LEAST_VALUES = 100_000


def count_parts(num_images: int, values_per_image: int) -> int:
    """The most equal parts of a batch whose operations are worth their start on a CPU.

    Args:
      num_images: of a device.
      values_per_image: channels of all tokens in a model's first block.
    """
    least = max(_LEAST_IMAGES, -(-_LEAST_VALUES // values_per_image))
    counts = range(1, num_images // least + 1)
    return max((count for count in counts if num_images % count == 0), default=1)


def image_gradient(
    loss: Callable[..., tuple[Array, Any]],
    images: Array,
    inputs: Any,
    num_parts: int = 1,
    axis_name: str | None = None,
    valid: Array | None = None,
) -> tuple[Array, Any]:
    """Gradient of a mean over images, and its terms, from equal parts of the batch in turn.

    Args:
      loss: of (images, inputs, valid) of a part; returns the mean over the part's images, [], and
        terms that are such means too.
      images: [B, height, width, channels].
      inputs: tree of [B, ...], what else the loss knows of each image.
      num_parts: a divisor of B.
      axis_name: mapped axis of the global batch; a part is that of all devices.
      valid: images that count; some do in each part.

    Returns:
      [B, height, width, channels] and the terms.
    """

    def split(x: Array) -> Array:
        return x.reshape(num_parts, -1, *x.shape[1:])

    counts = split(jnp.ones(len(images)) if valid is None else valid.astype(jnp.float32)).sum(
        axis=1
    )
    if axis_name is not None:
        counts = jax.lax.psum(counts, axis_name)

    def part_gradient(part: tuple[Array, tuple[Any, ...]]) -> tuple[Array, Any]:
        share, arguments = part
        values = jax.grad(loss, has_aux=True)(*arguments)
        return jax.tree.map(lambda value: share * value, values)

    parts = jax.tree.map(split, (images, inputs, valid))
    gradients, terms = jax.lax.map(part_gradient, (counts / counts.sum(), parts))
    return gradients.reshape(images.shape), jax.tree.map(lambda term: term.sum(axis=0), terms)
