"""How a model's input relates to the pixels of a picture."""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from maskaq_jax.devices import arrays
from maskaq_jax.schema import Fraction, PositiveFraction

Images = TypeVar("Images", np.ndarray, jax.Array)

# What red, green and blue add to a grey pixel: ITU-R BT.601's weights as Pillow rounds them. In
# float32 the sum of bytes times these is exact.
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)


def as_grey(pixels: jax.Array) -> jax.Array:
    """[height, width, 3] red, green and blue of 0 to 1 -> [height, width, 1], by `LUMA`."""
    return (pixels * jnp.asarray(LUMA)[None, None]).sum(axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The normalisation of pixels in [0, 1]: `input = (pixel - mean) / std`.

    Attributes:
      mean: per channel, of pixels in [0, 1].
      std: per channel, of the same.
      grey: whether the model only knows images whose channels are equal; colours are made grey.
    """

    mean: tuple[Fraction, ...] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFraction, ...] = (0.229, 0.224, 0.225)
    grey: bool = False

    @property
    def drops_colours(self) -> bool:
        """Whether pictures have colours that the model doesn't know."""
        return self.grey and len(self.mean) == len(LUMA)

    def from_bytes(self, images: Images) -> Images:
        """[..., channels] uint8 -> the same shape as the model's input, float32.

        Where the model knows no colours, all channels get the grey value that Pillow gives.

        Raises:
          ValueError: images that are no bytes, or of other channels.
        """
        arrays.check_axes("images", images, "... channels", "uint8", channels=len(self.mean))
        values = images.astype(np.float32)
        if self.drops_colours:
            weights = np.array(LUMA, np.float32).reshape(*[1] * (images.ndim - 1), -1)
            luma = (values * weights).sum(axis=-1, keepdims=True)
            values = ((luma + 0.5) // 1).repeat(len(LUMA), axis=-1)
        return self.normalise(values / 255)

    def normalise(self, pixels: Images) -> Images:
        """[..., channels] float32 in [0, 1] -> the same shape as the model's input.

        Raises:
          ValueError: pixels of other channels, or that are not of floating dtype.
        """
        mean, std = self._statistics("pixels", pixels)
        return (pixels - mean) / std

    def denormalise(self, images: Images) -> Images:
        """[..., channels] float32, the model's input -> pixels, cut off at 0 and 1.

        Raises:
          ValueError: images of other channels, or that are not of floating dtype.
        """
        mean, std = self._statistics("images", images)
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
        """[B, height, width, channels] normalised, cut off at `bounds`.

        Raises:
          ValueError: images of other axes or channels, or that are not of floating dtype.
        """
        self.check_images(images)
        low, high = (bound[None, None, None] for bound in self.bounds())
        return jnp.clip(images, low, high)

    def check_images(self, images: Images) -> None:
        """Raises ValueError for what is not [B, height, width, channels] floats of its channels."""
        axes = "batch height width channels"
        arrays.check_axes("images", images, axes, "floating", channels=len(self.mean))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError for what is not height, width and its channels."""
        if len(shape) != 3 or shape[-1] != len(self.mean):
            raise ValueError(
                f"shape must be height, width and {len(self.mean)} channels, got {shape}"
            )

    def _statistics(self, name: str, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation, of as many axes as the images have, which are checked."""
        arrays.check_axes(name, images, "... channels", "floating", channels=len(self.mean))
        shape = (*[1] * (images.ndim - 1), -1)
        mean, std = (np.asarray(values, np.float32) for values in (self.mean, self.std))
        return mean.reshape(shape), std.reshape(shape)
