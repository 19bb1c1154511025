"""The background that a model's first images get where the settings leave it open."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from maskaq_jax.devices import parallel
from maskaq_jax.images import backgrounds
from maskaq_jax.models import Model
from maskaq_jax.synthesis import first_images, inception_score
from maskaq_jax.synthesis.step import SynthesisSpec

# How many first images P chooses by.
_IMAGES_SCORED = 256
_draw_images = jax.jit(first_images.draw_images, static_argnums=(2, 3))


class BackgroundChoice(NamedTuple):
    """A spec whose background is decided, and the log inception score of each colour."""

    spec: SynthesisSpec
    scores: dict[str, float]


def choose_background(
    model: Model, params: Any, key: Array, spec: SynthesisSpec
) -> BackgroundChoice:
    """The colour of background in front of which P tells first images apart best.

    Every host must call it.

    Args:
      model: P, or Q; it has classes.
      params: P's weights.
      key: of the first images.
      spec: of the synthesis, whose background is not used.

    Raises:
      FloatingPointError: P's answers are not finite.
    """
    specs = [
        dataclasses.replace(spec, settings=dataclasses.replace(spec.settings, background=colour))
        for colour in backgrounds.COLOURS
    ]
    # Hosts agree, however close it is.
    scores = parallel.take_from_main(
        np.asarray([_score_first_images(model, params, key, choice) for choice in specs])
    )
    if not np.isfinite(scores).all():
        raise FloatingPointError(
            "the model's answers to first images are NaN or infinite: check config.model.weights, "
            "or set config.synthesis.background"
        )
    named = dict(zip(map(str, backgrounds.COLOURS), map(float, scores), strict=True))
    return BackgroundChoice(specs[int(scores.argmax())], named)


def _score_first_images(model: Model, params: Any, key: Array, spec: SynthesisSpec) -> float:
    """`inception_score.of_images` of first images as they are in front of the spec's background."""
    images = _draw_images(key, jnp.arange(_IMAGES_SCORED), model.input_shape, spec)
    images = spec.pixels.clip(images)
    return float(inception_score.of_images(model, params, images))
