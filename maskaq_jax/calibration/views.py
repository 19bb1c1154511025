"""Views of images that stand for more images where layers are fitted to few."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.devices.keys import image_keys, named_key
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.images.views import FinetuningView, finetuning_view

# Crops of half to all of an image, half of them flipped: colours stay.
_VIEW = FinetuningView(min_area=0.5, flip=0.5, jitter=0.0, grey=0.0, blur=0.0)
# Views drawn at a time.
_TOGETHER = 32


def add_views(images: Array, count: int, key: Array, pixels: Pixels) -> Array:
    """The images, and random views of them in turn until there are `count`; no fewer than all.

    Args:
      images: [B, height, width, channels] float32, normalised.
      count: images wanted.
      key: of the views.
      pixels: the normalisation.
    """
    view = jax.jit(functools.partial(finetuning_view, pixels=pixels, settings=_VIEW))
    numbers = jnp.arange(max(0, count - len(images)))
    keys = image_keys(named_key(key, "calibration views"), numbers)
    views = [
        view(
            keys[first : first + _TOGETHER],
            images[numbers[first : first + _TOGETHER] % len(images)],
        )
        for first in range(0, len(numbers), _TOGETHER)
    ]
    return jnp.concatenate([images, *views])
