import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import background_choice, first_images, inception_score, parallel, synthesis
from maskaq_jax.pixels import Pixels

SPEC = synthesis.Spec(synthesis.Settings(num_steps=7, contrast=2.0, background="auto"), Pixels())
PREPARED = SimpleNamespace(model=SimpleNamespace(input_shape=(8, 8, 3)), params={})


def _choose(monkeypatch, scores):
    """What is chosen where the model gives these scores, and what is said of it."""
    left = list(scores)
    monkeypatch.setattr(inception_score, "of_images", lambda *_: left.pop(0))
    told, measured = [], []
    reporter = SimpleNamespace(message=told.append, metrics=lambda *values: measured.append(values))
    chosen = background_choice.choose_background(PREPARED, jax.random.key(0), SPEC, reporter)
    return chosen, told, measured


@pytest.mark.parametrize(("scores", "expected"), [((0.25, 0.5), "white"), ((0.5, 0.25), "black")])
def test_the_model_chooses_the_colour_and_the_run_says_so(monkeypatch, scores, expected):
    chosen, (message,), measured = _choose(monkeypatch, scores)
    settings = dataclasses.replace(SPEC.settings, background=expected)
    assert chosen == dataclasses.replace(SPEC, settings=settings)
    assert f"a {expected} background" in message
    assert f"black {scores[0]:.2f}, white {scores[1]:.2f}" in message
    assert measured == [("background", 0, dict(zip(("black", "white"), scores, strict=True)))]


def test_all_hosts_choose_as_the_first_does(monkeypatch):
    monkeypatch.setattr(parallel, "take_from_main", lambda scores: scores[::-1])
    chosen, *_ = _choose(monkeypatch, (0.5, 0.25))
    assert chosen.settings.background == "white"


@pytest.mark.parametrize("scores", [(np.nan, np.nan), (0.5, np.inf)])
def test_a_model_without_answers_cannot_choose(monkeypatch, scores):
    with pytest.raises(FloatingPointError, match=r"check config\.model\.weights"):
        _choose(monkeypatch, scores)


def test_the_model_is_asked_of_first_images_with_pixels_as_they_can_be(monkeypatch):
    asked = []
    monkeypatch.setattr(
        inception_score, "of_images", lambda model, params, images: asked.append(images) or 0.5
    )
    reporter = SimpleNamespace(message=str, metrics=lambda *_: None)
    background_choice.choose_background(PREPARED, jax.random.key(0), SPEC, reporter)
    for images, colour in zip(asked, ("black", "white"), strict=True):
        settings = dataclasses.replace(SPEC.settings, background=colour)
        spec = dataclasses.replace(SPEC, settings=settings)
        first = first_images.draw_images(jax.random.key(0), jnp.arange(256), (8, 8, 3), spec)
        pixels = SPEC.pixels.denormalise(np.asarray(first))
        np.testing.assert_allclose(SPEC.pixels.denormalise(np.asarray(images)), pixels, atol=1e-5)
        assert np.abs(np.asarray(images) - np.asarray(first)).max() > 1
