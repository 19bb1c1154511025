"""Gradients with respect to images, of a few images at a time.

Where a loss is a mean over images, the gradient of one image does not depend on the others. Taken
in parts, it needs the memory of one part; on a CPU that is faster too, since more of it stays
in the caches (`docs/performance.md`).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.devices.global_batch import LOCAL, GlobalBatch

# What a part has at least: enough for an operation to take longer than its start. Measured, as
# `docs/performance.md` says.
_LEAST_IMAGES = 4
_LEAST_VALUES = 100_000


def choose_num_parts(num_images: int, values_per_image: int) -> int:
    """Into how many equal parts a CPU takes a batch: as many as leave each enough work.

    1 where no divisor does, as of a prime number of images.

    Args:
      num_images: of a device.
      values_per_image: channels of all tokens in a model's first block.
    """
    least = max(_LEAST_IMAGES, math.ceil(_LEAST_VALUES / values_per_image))
    counts = range(1, num_images // least + 1)
    return max((count for count in counts if num_images % count == 0), default=1)


def image_gradient(
    loss: Callable[..., tuple[Array, Any]],
    images: Array,
    inputs: Any,
    num_parts: int = 1,
    over: GlobalBatch = LOCAL,
) -> tuple[Array, Any]:
    """Gradient of a mean over images, and its terms, from equal parts of the batch in turn.

    Args:
      loss: of (images, inputs, over) of a part, which is a `GlobalBatch` of its own; returns the
        mean over its images, [], and terms that are such means too.
      images: [B, height, width, channels].
      inputs: tree of [B, ...], what else the loss knows of each image.
      num_parts: a divisor of B.
      over: the global batch; a part is that of all devices. Some of its images must be valid, as
        they are where a batch is padded by fewer images than there are devices
        (`parallel.rows_of_batch`): the first device's all count.

    Returns:
      [B, height, width, channels] and the terms.
    """
    gradient = jax.grad(loss, has_aux=True)
    if num_parts == 1:
        return gradient(images, inputs, over)

    def split(x: Array) -> Array:
        return x.reshape(num_parts, -1, *x.shape[1:])

    if over.valid is None:
        shares = jnp.full(num_parts, 1 / num_parts)
    else:
        counts = over.sum_over_devices(split(over.valid.astype(jnp.float32)).sum(axis=1))
        shares = counts / counts.sum()

    def part_gradient(part: tuple[Array, tuple[Any, ...]]) -> tuple[Array, Any]:
        share, arguments = part
        return jax.tree.map(lambda value: share * value, gradient(*arguments))

    parts = jax.tree.map(split, (images, inputs, over))
    gradients, terms = jax.lax.map(part_gradient, (shares, parts))
    return gradients.reshape(images.shape), jax.tree.map(lambda term: term.sum(axis=0), terms)
