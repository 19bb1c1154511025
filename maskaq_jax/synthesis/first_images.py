"""What the synthesis of a batch starts from: first images, and the classes they are made for."""

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.devices import arrays
from maskaq_jax.devices.keys import image_keys, named_key
from maskaq_jax.images import backgrounds, dead_leaves, mixture, noise
from maskaq_jax.synthesis.step import SynthesisSettings, SynthesisSpec


def draw_labels(key: Array, indices: Array, num_classes: int, settings: SynthesisSettings) -> Array:
    """[B] int32 classes the images are to be made for; all 0 where there are none.

    Raises:
      ValueError: as of `image_keys`.
    """
    arrays.check_axes("indices", indices, "batch", "integer")
    num_classes = max(1, num_classes)
    if settings.balanced_labels:
        return indices % num_classes
    keys = image_keys(named_key(key, "label"), indices)
    return jax.vmap(lambda k: jax.random.randint(k, (), 0, num_classes))(keys)


def draw_images(key: Array, indices: Array, shape: tuple[int, ...], spec: SynthesisSpec) -> Array:
    """[B, *shape] first images, boxed in as the settings say.

    Raises:
      ValueError: as of `image_keys`; or a shape that is no image's, or of other channels than the
        pixels'.
    """
    settings = spec.settings
    if settings.first_images == "leaves":
        images = dead_leaves.draw_leaves(key, indices, shape, spec.pixels)
    elif settings.first_images == "mixture":
        images = mixture.draw_mixture(key, indices, shape, spec.pixels)
    else:
        images = _draw_noise(key, indices, shape, spec)
    return backgrounds.paint(images, settings.background, key, indices, spec.pixels)


def _draw_noise(key: Array, indices: Array, shape: tuple[int, ...], spec: SynthesisSpec) -> Array:
    """As smooth and rich in contrast as the settings say."""
    settings = spec.settings
    images = noise.draw_noise(key, indices, shape, spec.pixels)
    if settings.smoothness:
        smoothness = noise.draw_smoothness(
            key, indices, settings.smoothness, settings.smoothness_spread
        )
        images = noise.blur(images, smoothness)
    if settings.contrast:
        deviation = images.std(axis=(1, 2, 3), keepdims=True)
        images = images * (settings.contrast / jnp.maximum(deviation, 1e-8))
    return images
