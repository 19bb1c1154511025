"""Models that answer by what their variables hold, and pictures that say which answer it is."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from maskaq_jax.images.pixels import Pixels

# Takes bytes for numbers, so that the first pixel of an image tells its number.
BYTES = Pixels(mean=(0.0,) * 3, std=(1 / 255,) * 3)


@dataclasses.dataclass(frozen=True)
class Given:
    """A model whose answer to image number n is entry n of its variables."""

    task: Any
    num_classes: int
    input_shape: tuple[int, int, int] = (8, 8, 3)
    quantization: Any = None

    def apply(self, variables, images):
        numbers = jnp.round(images[:, 0, 0, 0]).astype(jnp.int32)
        if self.task == "detection":
            return {name: answer[numbers] for name, answer in variables.items()}, {}
        if self.task == "features":
            return tuple(answer[numbers] for answer in variables), {}
        return variables[numbers], {}

    def clone(self, **changes):
        return dataclasses.replace(self, **changes)


def numbered_images(numbers, shape=(8, 8, 3)):
    """[B, *shape] float32 as `BYTES` normalises them."""
    return np.broadcast_to(
        np.asarray(numbers, np.float32)[:, None, None, None], (len(numbers), *shape)
    )
