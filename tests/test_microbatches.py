"""In how many parts the models see a batch changes nothing but rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskaq_jax import calibration, microbatches, parallel, synthesis
from maskaq_jax.models import Quantization, create_model
from maskaq_jax.parallel import AXIS, REPLICATED, SHARDED
from maskaq_jax.pixels import Pixels

BATCH = 8
MODELS = {
    "vit": {"patch_size": 4, "depth": 1, "num_heads": 2},
    "swin": {"patch_size": 1, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4},
}
ALL_TERMS = synthesis.LossWeights(density=1.0, variation_gap=1.0)
SPEC = synthesis.Spec(synthesis.Settings(num_steps=10, weights=ALL_TERMS), Pixels())


@pytest.fixture(scope="module", params=MODELS)
def problem(request):
    """A model, and a batch of images of different contrast."""
    model = create_model(
        request.param, 4, Quantization(4, 4), img_size=8, embed_dim=16, **MODELS[request.param]
    )
    contrast = jnp.linspace(0.2, 2.0, BATCH)[:, None, None, None]
    images = contrast * jax.random.normal(jax.random.key(0), (BATCH, 8, 8, 3))
    params = jax.jit(model.clone(quantization=None).init)(jax.random.key(1), images)["params"]
    # Weights that differ from P's, so that P and Q disagree by more than rounding.
    moved = jax.tree.map(lambda weight: 1.1 * weight + 0.01, params)
    variables = {"params": moved, "quant": calibration.calibrate(model, params, images)}
    indices = jnp.arange(BATCH, dtype=jnp.int32)
    batch = synthesis.Batch(indices, indices % 4, params, variables)
    return model, batch, images


# Moves nothing; its state is the last gradient.
KEEP_GRADIENT = optax.GradientTransformation(
    jnp.zeros_like, lambda gradient, state, images: (jnp.zeros_like(state), gradient)
)


def _gradient_and_terms(problem, num_devices, num_parts, valid):
    """Of a step of synthesis."""
    model, batch, images = problem

    def per_device(state, batch, key):
        return synthesis.step(model, KEEP_GRADIENT, SPEC, state, batch, key, AXIS, num_parts)

    state = synthesis.init_state(KEEP_GRADIENT, images)
    state_specs = parallel.leading_axis_specs(state)
    valid_specs = None if valid is None else SHARDED
    batch_specs = synthesis.Batch(SHARDED, SHARDED, REPLICATED, REPLICATED, valid_specs)
    step = parallel.map_over_devices(
        per_device,
        parallel.make_mesh(jax.devices()[:num_devices]),
        (state_specs, batch_specs, REPLICATED),
        (state_specs, REPLICATED),
    )
    state, terms = step(state, batch.replace(valid=valid), jax.random.key(3))
    return state.opt_state, terms


@pytest.mark.parametrize("num_valid", [None, 7])
def test_parts_give_the_gradient_of_the_whole_batch(problem, num_valid):
    valid = None if num_valid is None else jnp.arange(BATCH) < num_valid
    expected, expected_terms = _gradient_and_terms(problem, 1, 1, valid)
    assert np.abs(expected).max() > 1e-3
    for num_devices, num_parts in ((1, 2), (1, 4), (2, 2)):
        gradient, terms = _gradient_and_terms(problem, num_devices, num_parts, valid)
        np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max())
        assert terms.keys() == expected_terms.keys()
        for name, value in expected_terms.items():
            np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)


def test_terms_of_the_whole_batch_would_not_survive_parts(problem):
    """What the comparison above guards against: roughness is a norm, not a mean."""
    _, batch, images = problem
    whole = synthesis.roughness_terms(SPEC.settings, batch, images)
    halves = [
        synthesis.roughness_terms(SPEC.settings, batch, half) for half in jnp.split(images, 2)
    ]
    mean = np.mean([half["total_variation"] for half in halves])
    assert abs(mean - whole["total_variation"]) > 0.1 * whole["total_variation"]


@given(num_images=st.integers(1, 300), values_per_image=st.integers(1, 1_000_000))
def test_parts_are_equal_and_worth_their_start(num_images, values_per_image):
    count = microbatches.count_parts(num_images, values_per_image)
    size, rest = divmod(num_images, count)
    assert rest == 0
    assert count == 1 or (size >= 4 and size * values_per_image >= 100_000)


def test_parts_of_known_models():
    """As measured: 4 images of 224 pixels, 32 of 28 pixels and 49 patches."""
    assert microbatches.count_parts(8, 196 * 192) == 2
    assert microbatches.count_parts(160, 49 * 64) == 5
    assert microbatches.count_parts(7, 196 * 192) == 1
