"""How a model's input relates to the pixels of a picture."""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from maskaq_jax.schema import Fraction, PositiveFraction

Images = TypeVar("Images", np.ndarray, jax.Array)


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The normalisation of pixels in [0, 1]: `input = (pixel - mean) / std`.

    Attributes:
      mean: per channel, of pixels in [0, 1].
      std: per channel, of the same.
      grey: whether the model only knows images whose channels are equal.
    """

    mean: tuple[Fraction, ...] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFraction, ...] = (0.229, 0.224, 0.225)
    grey: bool = False

    def from_bytes(self, images: Images) -> Images:
        """[..., channels] uint8 -> the same shape as the model's input, float32."""
        return self.normalise(images.astype(np.float32) / 255)

    def normalise(self, pixels: Images) -> Images:
        """[..., channels] float32 in [0, 1] -> the same shape as the model's input."""
        mean, std = self._statistics(pixels.ndim)
        return (pixels - mean) / std

    def denormalise(self, images: Images) -> Images:
        """[..., channels] float32, the model's input -> pixels, cut off at 0 and 1."""
        mean, std = self._statistics(images.ndim)
        return (images * std + mean).clip(0, 1)

    def bounds(self) -> tuple[jax.Array, jax.Array]:
        """Smallest and largest input that a real pixel gives, [channels] float32 each.

        Of grey images, whose normalised channels are equal, the range that is real in all of them.
        """
        black = jnp.zeros(len(self.mean))
        low, high = self.normalise(black), self.normalise(black + 1)
        if self.grey:
            return jnp.full_like(low, low.max()), jnp.full_like(high, high.min())
        return low, high

    def clip(self, images: jax.Array) -> jax.Array:
        """[B, height, width, channels] normalised, cut off at `bounds`."""
        low, high = (bound[None, None, None] for bound in self.bounds())
        return jnp.clip(images, low, high)

    def _statistics(self, ndim: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation, of as many axes as the images have."""
        shape = (*[1] * (ndim - 1), -1)
        mean, std = (np.asarray(values, np.float32) for values in (self.mean, self.std))
        return mean.reshape(shape), std.reshape(shape)
