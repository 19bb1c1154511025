"""The background that a model's first images get where the settings leave it open."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from maskaq_jax import backgrounds, first_images, inception_score, parallel, report, synthesis
from maskaq_jax.experiment import Experiment

# How many first images P chooses by.
_IMAGES_SCORED = 256
_draw_images = jax.jit(first_images.draw_images, static_argnums=(2, 3))


def choose_background(
    experiment: Experiment, key: Array, spec: synthesis.Spec, reporter: report.Reporter
) -> synthesis.Spec:
    """The spec with the colour of background in front of which P tells first images apart best.

    Prints the choice, and writes both scores to the metrics. Every host must call it.

    Args:
      experiment: of the run; its model has classes.
      key: of the first images.
      spec: of the synthesis, whose background is not used.
      reporter: of the run.

    Raises:
      FloatingPointError: P's answers are not finite.
    """
    specs = [
        dataclasses.replace(spec, settings=dataclasses.replace(spec.settings, background=colour))
        for colour in backgrounds.COLOURS
    ]
    # Hosts agree, however close it is.
    scores = parallel.take_from_main(
        np.asarray([_score_first_images(experiment, key, choice) for choice in specs])
    )
    if not np.isfinite(scores).all():
        raise FloatingPointError(
            "the model's answers to first images are NaN or infinite: check config.model.weights, "
            "or set config.synthesis.background"
        )
    named: dict[str, float] = dict(zip(backgrounds.COLOURS, map(float, scores), strict=True))
    chosen = specs[int(scores.argmax())]
    reporter.metrics("background", 0, named)
    reporter.message(
        f"images get a {chosen.settings.background} background; log inception scores: "
        + ", ".join(f"{colour} {score:.2f}" for colour, score in named.items())
    )
    return chosen


def _score_first_images(experiment: Experiment, key: Array, spec: synthesis.Spec) -> float:
    """`inception_score.of_images` of first images as they are in front of the spec's background."""
    shape = experiment.model.input_shape
    images = _draw_images(key, jnp.arange(_IMAGES_SCORED), shape, spec)
    images = spec.pixels.clip(images)
    return float(inception_score.of_images(experiment.model, experiment.params, images))
