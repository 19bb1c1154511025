import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.devices import parallel
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.synthesis import background_choice, first_images, inception_score
from maskaq_jax.synthesis.step import SynthesisSettings, SynthesisSpec

SPEC = SynthesisSpec(SynthesisSettings(num_steps=7, contrast=2.0, background="auto"), Pixels())
MODEL = SimpleNamespace(input_shape=(8, 8, 3))


def _choose(monkeypatch, scores):
    """What is chosen where the model gives these scores."""
    left = list(scores)
    monkeypatch.setattr(inception_score, "of_images", lambda *_: left.pop(0))
    return background_choice.choose_background(MODEL, {}, jax.random.key(0), SPEC)


@pytest.mark.parametrize(("scores", "expected"), [((0.25, 0.5), "white"), ((0.5, 0.25), "black")])
def test_the_model_chooses_the_colour(monkeypatch, scores, expected):
    chosen = _choose(monkeypatch, scores)
    settings = dataclasses.replace(SPEC.settings, background=expected)
    assert chosen.spec == dataclasses.replace(SPEC, settings=settings)
    assert chosen.scores == dict(zip(("black", "white"), scores, strict=True))


def test_all_hosts_choose_as_the_first_does(monkeypatch):
    monkeypatch.setattr(parallel, "take_from_main", lambda scores: scores[::-1])
    chosen = _choose(monkeypatch, (0.5, 0.25))
    assert chosen.spec.settings.background == "white"


@pytest.mark.parametrize("scores", [(np.nan, np.nan), (0.5, np.inf)])
def test_a_model_without_answers_cannot_choose(monkeypatch, scores):
    with pytest.raises(FloatingPointError, match=r"check config\.model\.weights"):
        _choose(monkeypatch, scores)


def test_the_model_is_asked_of_first_images_with_pixels_as_they_can_be(monkeypatch):
    asked = []
    monkeypatch.setattr(
        inception_score, "of_images", lambda model, params, images: asked.append(images) or 0.5
    )
    background_choice.choose_background(MODEL, {}, jax.random.key(0), SPEC)
    for images, colour in zip(asked, ("black", "white"), strict=True):
        settings = dataclasses.replace(SPEC.settings, background=colour)
        spec = dataclasses.replace(SPEC, settings=settings)
        first = first_images.draw_images(jax.random.key(0), jnp.arange(256), (8, 8, 3), spec)
        pixels = SPEC.pixels.denormalise(np.asarray(first))
        np.testing.assert_allclose(SPEC.pixels.denormalise(np.asarray(images)), pixels, atol=1e-5)
        assert np.abs(np.asarray(images) - np.asarray(first)).max() > 1
