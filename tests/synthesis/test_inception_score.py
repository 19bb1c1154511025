import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.models import create_model
from maskaq_jax.models.layers import Quantization
from maskaq_jax.synthesis import inception_score
from tests import tiny

KEY = jax.random.key(0)


def test_the_same_answer_whatever_the_image_tells_nothing():
    logits = jnp.tile(jnp.asarray([3.0, -1.0, 0.5]), (7, 1))
    np.testing.assert_allclose(inception_score.log_inception_score(logits), 0, atol=1e-6)


def test_sure_answers_of_all_classes_tell_all_there_is():
    logits = 100.0 * jnp.tile(jnp.eye(4), (3, 1))
    score = inception_score.log_inception_score(logits)
    np.testing.assert_allclose(score, np.log(4), rtol=1e-6)


def test_the_score_is_the_entropy_that_an_image_takes_away():
    logits = 2 * jax.random.normal(KEY, (50, 10))
    p = np.exp(np.asarray(logits, np.float64))
    p /= p.sum(axis=1, keepdims=True)
    mean = p.mean(axis=0)
    expected = -(mean * np.log(mean)).sum() + (p * np.log(p)).sum() / 50
    score = inception_score.log_inception_score(logits)
    np.testing.assert_allclose(score, expected, rtol=1e-5)


SWIN = {"img_size": 28, "patch_size": 2, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}


@pytest.mark.parametrize(("name", "arguments"), [("vit", tiny.ARGUMENTS), ("swin", SWIN)])
def test_images_are_scored_by_what_p_says_of_all_of_them(name, arguments):
    model = create_model(name, 10, Quantization(2, 2), **arguments, **_windows(name))
    model_p = model.clone(quantization=None)
    images = jax.random.normal(KEY, (64, *model.input_shape))
    params = jax.jit(model_p.init)(KEY, images[:1])["params"]
    params["head"] = jax.tree.map(lambda leaf: 20 * leaf, params["head"])  # a score worth the name
    logits, _ = model_p.apply({"params": params}, images)
    expected = inception_score.log_inception_score(logits)
    assert expected > 0.01
    score = inception_score.of_images(model, params, images)
    np.testing.assert_allclose(score, expected, rtol=1e-4)


def _windows(name):
    return {"window_size": 7} if name == "swin" else {}
