"""Plain backgrounds: an image is made inside a box, and the rest of it is black or white."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.devices import arrays
from maskaq_jax.devices.keys import image_keys, named_key
from maskaq_jax.images.pixels import Pixels

Background = Literal["none", "black", "white", "auto"]
# What 'auto' is one of.
COLOURS: tuple[Background, ...] = ("black", "white")

# Of a box's sides, as a share of the image's.
_LEAST_SIDE = 0.4


def paint(
    images: Array, background: Background, key: Array, indices: Array, pixels: Pixels
) -> Array:
    """Makes all of an image plain but for its box.

    Args:
      images: [B, height, width, channels] normalised.
      background: a colour; 'none' returns the images as they are.
      key: of the synthesis; an image's box is the same whenever it is painted.
      indices: [B] int32 global numbers of the images.
      pixels: what black and white are.

    Returns:
      The images, shape and dtype of `images`.

    Raises:
      ValueError: images of other axes or channels or not of floating dtype; indices of other
        images; or the background has no colour yet.
    """
    pixels.check_images(images)
    arrays.check_axes("indices", indices, "batch", "integer", batch=len(images))
    if background == "none":
        return images
    if background not in COLOURS:
        raise ValueError(f"background {background!r} has no colour yet")
    black, white = pixels.bounds()
    boxes = draw_boxes(key, indices, *images.shape[1:3])
    return jnp.where(boxes, images, black if background == "black" else white)


def draw_boxes(key: Array, indices: Array, height: int, width: int) -> Array:
    """[B, height, width, 1] bool, true in the box of each image.

    Each side is uniform from 0.4 to 1 of the image's; the box lies anywhere inside the image.

    Raises:
      ValueError: as of `image_keys`.
    """

    def draw_box(image_key: Array) -> Array:
        side_key, place_key = jax.random.split(image_key)
        sides = jax.random.uniform(side_key, (2,), minval=_LEAST_SIDE)
        starts = jax.random.uniform(place_key, (2,)) * (1 - sides)

        def inside(axis: int, size: int) -> Array:
            centres = (jnp.arange(size) + 0.5) / size
            return (centres >= starts[axis]) & (centres <= starts[axis] + sides[axis])

        return inside(0, height)[:, None, None] & inside(1, width)[None, :, None]

    return jax.vmap(draw_box)(image_keys(named_key(key, "box"), indices))
