"""How well P tells images apart, by which it chooses what they stand in front of."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.devices import arrays
from maskaq_jax.models import Model, full_precision

# Images that P sees at a time.
_TOGETHER = 32


@functools.partial(jax.jit, static_argnums=0)
def of_images(model: Model, params: Any, images: Array) -> Array:
    """[] `log_inception_score` of P on images.

    Args:
      model: P, or Q, of which P is the full-precision clone; it has classes.
      params: P's weights.
      images: [images, height, width, channels] normalised; a multiple of 32.

    Raises:
      ValueError: images of other axes or not of floating dtype, or no multiple of 32.
    """
    arrays.check_axes("images", images, "batch height width channels", "floating")
    if len(images) % _TOGETHER:
        raise ValueError(f"images must be a multiple of {_TOGETHER}, got {len(images)}")
    model_p = full_precision(model)

    def classify(batch: Array) -> Array:
        return model_p.apply({"params": params}, batch)[0]

    logits = jax.lax.map(classify, images.reshape(-1, _TOGETHER, *images.shape[1:]))
    return log_inception_score(logits.reshape(len(images), -1))


def log_inception_score(logits: Array) -> Array:
    """The information that an image gives about its class, by a classifier's answers.

    It is the logarithm of the inception score: Salimans et al., "Improved Techniques for Training
    GANs", 2016, section 4.

    Args:
      logits: [images, classes] of the classifier.

    Returns:
      [] from 0, where the answer is always the same, to the logarithm of the number of classes or
      of images, whichever is smaller.

    Raises:
      ValueError: logits of other axes, or not of floating dtype.
    """
    arrays.check_axes("logits", logits, "images classes", "floating")
    log_probabilities = jax.nn.log_softmax(logits)
    log_mean = jax.nn.logsumexp(log_probabilities, axis=0, keepdims=True) - jnp.log(len(logits))
    gain = jnp.exp(log_probabilities) * (log_probabilities - log_mean)
    return gain.sum(axis=-1).mean()
