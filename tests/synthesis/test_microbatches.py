"""In how many parts the models see a batch changes nothing but rounding."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskaq_jax import calibration
from maskaq_jax.devices import parallel
from maskaq_jax.devices.global_batch import GlobalBatch
from maskaq_jax.devices.keys import image_keys, named_key
from maskaq_jax.devices.parallel import AXIS, REPLICATED, SHARDED
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.images.views import synthesis_view
from maskaq_jax.models import Quantization, create_model
from maskaq_jax.synthesis import loop as synthesis_loop
from maskaq_jax.synthesis import microbatches
from maskaq_jax.synthesis import step as synthesis
from maskaq_jax.synthesis import terms as synthesis_terms
from maskaq_jax.synthesis.step import SynthesisSettings, SynthesisSpec
from maskaq_jax.synthesis.terms import SynthesisBatch

BATCH = 8
KEY = jax.random.key(3)
# The ViT has more patches than the entropy compares, so that some are drawn.
MODELS = {
    "vit": {"img_size": 36, "patch_size": 4, "depth": 1, "num_heads": 2},
    "swin": {
        "img_size": 8,
        "patch_size": 1,
        "depths": (1, 1),
        "num_heads": (1, 2),
        "window_size": 4,
    },
}
ALL_TERMS = synthesis_terms.LossWeights(density=1.0, variation_gap=1.0)
SPEC = SynthesisSpec(SynthesisSettings(num_steps=10, weights=ALL_TERMS), Pixels())
# A step in the middle of the run, and the share of patches in its regions.
STEP, RATIO = 7, 0.3 * 0.5 + 0.7 * 0.1
# Moves nothing; its state is the last gradient.
KEEP_GRADIENT = optax.GradientTransformation(
    jnp.zeros_like, lambda gradient, state, images: (jnp.zeros_like(state), gradient)
)


@pytest.fixture(scope="module", params=["vit", pytest.param("swin", marks=pytest.mark.slow)])
def problem(request):
    """A model, and a batch of images of different contrast."""
    model = create_model(
        request.param, 4, Quantization(4, 4), embed_dim=16, **MODELS[request.param]
    )
    contrast = jnp.linspace(0.2, 2.0, BATCH)[:, None, None, None]
    images = contrast * jax.random.normal(jax.random.key(0), (BATCH, *model.input_shape))
    params = jax.jit(model.clone(quantization=None).init)(jax.random.key(1), images)["params"]
    # Weights that differ from P's, so that P and Q disagree by more than rounding.
    moved = jax.tree.map(lambda weight: 1.1 * weight + 0.01, params)
    variables = {"params": moved, "quant": calibration.calibrate(model, params, images)}
    indices = jnp.arange(BATCH, dtype=jnp.int32)
    return model, SynthesisBatch(indices, indices % 4, params, variables), images


def _whole_batch(problem, valid):
    """Of step `STEP`: the models' terms and their gradient, those of roughness and theirs."""
    model, batch, images = problem
    settings, over = SPEC.settings, GlobalBatch(valid=valid)
    target = synthesis_terms.draw_variation_target(KEY, batch, images, over)
    key = jax.random.fold_in(KEY, STEP)
    keys = image_keys(named_key(key, "view"), batch.indices)

    def models(images):
        views = synthesis_view(keys, images, STEP, settings.num_steps, settings.view)
        terms = synthesis_terms.model_terms(
            *(model, settings.weights, batch, views, RATIO, settings.drop_rate, key, over),
            progress=STEP / settings.num_steps,
            target_keys=keys,
        )
        return sum(terms.values()), terms

    def roughness(images):
        terms = synthesis_terms.image_terms(settings.weights, images, target, over)
        return sum(terms.values()), terms

    @jax.jit
    def both(images):
        return *jax.grad(models, has_aux=True)(images), *jax.grad(roughness, has_aux=True)(images)

    return both(images)


def _step(problem, num_devices, num_parts, valid):
    """Gradient and terms of that step of synthesis."""
    model, batch, images = problem

    def per_device(state, batch, key):
        return synthesis.step(model, KEEP_GRADIENT, SPEC, state, batch, key, AXIS, num_parts)

    state = synthesis.init_state(KEEP_GRADIENT, images).replace(step=jnp.int32(STEP))
    state_specs = parallel.leading_axis_specs(state)
    valid_specs = None if valid is None else SHARDED
    batch_specs = SynthesisBatch(SHARDED, SHARDED, REPLICATED, REPLICATED, valid_specs)
    step = parallel.map_over_devices(
        per_device,
        parallel.make_mesh(jax.devices()[:num_devices]),
        (state_specs, batch_specs, REPLICATED),
        (state_specs, REPLICATED),
    )
    state, terms = step(state, batch.replace(valid=valid), KEY)
    return state.opt_state, terms


@pytest.mark.parametrize("num_valid", [None, 7])
def test_parts_give_the_gradient_of_the_whole_batch(problem, num_valid):
    valid = None if num_valid is None else jnp.arange(BATCH) < num_valid
    by_models, model_terms, by_images_alone, image_terms = _whole_batch(problem, valid)
    expected_terms = model_terms | image_terms
    # Much smaller than that of roughness, which parts don't touch.
    tolerance = 2e-3 * float(np.abs(by_models).max())
    assert np.abs(by_images_alone).max() > 10 * tolerance
    for num_devices, num_parts in ((1, 1), (1, 4), (2, 2)):
        gradient, terms = _step(problem, num_devices, num_parts, valid)
        np.testing.assert_allclose(gradient, by_models + by_images_alone, rtol=0, atol=tolerance)
        assert terms.keys() == expected_terms.keys()
        for name, value in expected_terms.items():
            np.testing.assert_allclose(terms[name], value, rtol=2e-4, err_msg=name)


@given(num_images=st.integers(1, 300), values_per_image=st.integers(1, 1_000_000))
def test_parts_are_equal_and_have_enough_to_do(num_images, values_per_image):
    num_parts = microbatches.choose_num_parts(num_images, values_per_image)
    size, rest = divmod(num_images, num_parts)
    assert rest == 0
    assert num_parts == 1 or (size >= 4 and size * values_per_image >= 100_000)


@pytest.mark.parametrize(
    ("name", "num_images", "num_parts"),
    [
        ("deit_tiny_patch16_224", 8, 2),
        ("deit_tiny_patch16_224", 7, 1),
        ("swin_tiny_patch4_window7_224", 8, 2),
        ("vit_small_patch14_dinov2", 32, 8),
    ],
)
def test_a_cpu_takes_parts_and_an_accelerator_does_not(name, num_images, num_parts):
    model, cpus = create_model(name), parallel.make_mesh()
    chips = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform="gpu")]))
    assert synthesis_loop.choose_num_parts(model, num_images, cpus) == num_parts
    assert synthesis_loop.choose_num_parts(model, num_images, chips) == 1


@pytest.mark.parametrize("num_devices", [1, 2])
def test_the_program_of_synthesis_takes_parts(problem, num_devices, monkeypatch):
    model, batch, images = problem
    gradient, taken = microbatches.image_gradient, []

    def note_parts(*arguments, num_parts, **rest):
        taken.append(num_parts)
        return gradient(*arguments, num_parts=num_parts, **rest)

    monkeypatch.setattr(microbatches, "image_gradient", note_parts)
    monkeypatch.setattr(
        microbatches, "choose_num_parts", lambda num_images, values: num_images // 2
    )
    mesh = parallel.make_mesh(jax.devices()[:num_devices])
    state = synthesis.init_state(synthesis.create_optimizer(SPEC.settings), images)
    _, terms = synthesis_loop.SynthesisLoop(model, SPEC, mesh).program()(
        jax.tree.map(jnp.copy, state), batch, KEY, jnp.int32(1)
    )
    assert set(taken) == {BATCH // num_devices // 2}
    assert all(np.isfinite(value) for value in terms.values())
