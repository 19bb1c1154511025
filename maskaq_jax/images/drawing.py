"""Images that are drawn one by one, each from a key of its own."""

from collections.abc import Callable

import jax
from jax import Array

from maskaq_jax.devices.keys import image_keys
from maskaq_jax.images.pixels import Pixels


def draw_each(
    draw: Callable[[Array], Array],
    key: Array,
    indices: Array,
    shape: tuple[int, ...],
    pixels: Pixels,
) -> Array:
    """[B, *shape] images in normalised pixel space.

    Args:
      draw: an image of this shape, of 0 to 1, from its key.
      key: of the purpose.
      indices: [B] int32 global numbers of the images.
      shape: height, width and channels.
      pixels: the normalisation.

    Raises:
      ValueError: as of `image_keys`; or a shape that is no image's, or of other channels than the
        pixels'.
    """
    pixels.check_shape(shape)
    images = jax.lax.map(draw, image_keys(key, indices))
    return pixels.clip(pixels.normalise(images))
