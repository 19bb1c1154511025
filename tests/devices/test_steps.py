"""A step on several devices is that of one: of synthesis, fine-tuning and evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import losses
from maskaq_jax.data.batches import LabelledBatch
from maskaq_jax.devices import parallel
from maskaq_jax.devices.global_batch import GlobalBatch
from maskaq_jax.devices.parallel import AXIS, REPLICATED, SHARDED
from maskaq_jax.evaluation.agreement import Agreement
from maskaq_jax.evaluation.classification import Classification
from maskaq_jax.evaluation.loop import EvaluationLoop
from maskaq_jax.finetuning import step as finetuning
from maskaq_jax.finetuning.optimizer import create_optimizer
from maskaq_jax.finetuning.step import FinetuningBatch
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.synthesis import step as synthesis
from maskaq_jax.synthesis.step import SynthesisSettings, SynthesisSpec, SynthesisState
from maskaq_jax.synthesis.terms import SynthesisBatch
from tests.devices.common import BATCH, FINETUNING, KEY, MESHES, TOLERANCE, assert_same

SYNTHESIS = SynthesisSpec(SynthesisSettings(num_steps=10, background="white"), Pixels())


def _synthesis_problem(model, images, params, variables):
    optimizer = synthesis.create_optimizer(SYNTHESIS.settings)
    step = functools.partial(synthesis.step, model, optimizer, SYNTHESIS)
    state = synthesis.init_state(optimizer, images)
    indices = jnp.arange(BATCH, dtype=jnp.int32)
    batch = SynthesisBatch(indices, indices % 4, params, variables)
    batch_specs = SynthesisBatch(SHARDED, SHARDED, REPLICATED, REPLICATED)
    return step, state, batch, parallel.leading_axis_specs(state), batch_specs


def _finetuning_problem(model, images, params, variables):
    optimizer = create_optimizer(FINETUNING.settings, 10)
    step = functools.partial(finetuning.step, model, optimizer, FINETUNING)
    state = finetuning.init_state(optimizer, variables)
    batch = FinetuningBatch(jnp.arange(BATCH, dtype=jnp.int32), images, params)
    return step, state, batch, REPLICATED, FinetuningBatch(SHARDED, SHARDED, REPLICATED)


PROBLEMS = {"synthesis": _synthesis_problem, "finetuning": _finetuning_problem}


@pytest.fixture(scope="module", params=PROBLEMS)
def problem(request, model, images, params, variables):
    return PROBLEMS[request.param](model, images, params, variables)


@pytest.fixture(scope="module")
def stepped(problem):
    """The state and terms after a step on one device and on four."""
    step, state, batch, state_specs, batch_specs = problem
    results = {}
    for count, mesh in MESHES.items():
        mapped = parallel.map_over_devices(
            functools.partial(step, axis_name=AXIS),
            mesh,
            (state_specs, batch_specs, REPLICATED),
            (state_specs, REPLICATED),
        )
        results[count] = mapped(state, batch, KEY)
    return results


def _drop_images_of_tiny_gradient(state):
    """Adam's first update is the gradient's sign, which rounding decides where there is none."""
    if not isinstance(state, SynthesisState):
        return state
    gradient = np.abs(state.opt_state[0].mu)
    return state.replace(images=np.where(gradient > 1e-3 * gradient.max(), state.images, 0))


def test_four_devices_take_the_step_of_one(stepped):
    actual, expected = (_drop_images_of_tiny_gradient(stepped[count][0]) for count in (4, 1))
    assert_same(actual, expected, TOLERANCE)


def test_terms_are_those_of_the_global_batch(stepped):
    assert_same(stepped[4][1], stepped[1][1], TOLERANCE)


def test_a_step_changes_the_state_by_more_than_the_tolerance(problem, stepped):
    with pytest.raises(AssertionError):
        assert_same(stepped[4][0], problem[1], 100 * TOLERANCE)


@pytest.mark.filterwarnings("ignore:.*pmap.*:DeprecationWarning")
def test_pmap_of_the_same_step_gives_the_same_numbers(problem, stepped):
    step, state, batch, state_specs, batch_specs = problem
    count = 4

    def split(tree, specs):
        return jax.tree.map(
            lambda spec, part: jax.tree.map(
                lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]) if spec == SHARDED else leaf,
                part,
            ),
            specs,
            tree,
            is_leaf=lambda node: node in (SHARDED, REPLICATED),
        )

    def axes(specs):
        return jax.tree.map(lambda spec: 0 if spec == SHARDED else None, specs)

    mapped = jax.pmap(
        functools.partial(step, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(axes(state_specs), axes(batch_specs), None),
        out_axes=(axes(state_specs), None),
        devices=jax.devices()[:count],
    )
    state, terms = mapped(split(state, state_specs), split(batch, batch_specs), KEY)
    expected, expected_terms = stepped[4]
    state = jax.tree.map(lambda leaf, like: leaf.reshape(like.shape), state, expected)
    assert_same(state, expected, 1e-6)
    assert_same(terms, expected_terms, 1e-6)


def test_the_mean_of_the_devices_own_losses_would_be_another(images):
    """What keeps the tests above from passing by chance."""
    own = [losses.total_variation_loss(part) for part in jnp.split(images, 4)]
    total = losses.total_variation_loss(images)
    assert abs(np.mean(own) - total) > 0.1 * total
    over_devices = parallel.map_over_devices(
        lambda part: losses.total_variation_loss(part, over=GlobalBatch(AXIS)),
        MESHES[4],
        SHARDED,
        REPLICATED,
    )
    np.testing.assert_allclose(over_devices(images), total, rtol=1e-6)


@pytest.mark.parametrize("count", MESHES)
def test_evaluation_counts_are_those_of_all_devices(model, images, variables, count):
    labels = jnp.arange(BATCH, dtype=jnp.int32) % 4
    valid = jnp.arange(BATCH) < 5
    program = EvaluationLoop(Classification(), model, MESHES[count]).program
    counts = program(variables, LabelledBatch(images, labels, valid))
    answers = jax.jit(model.apply)(variables, images)[0].argmax(axis=-1)
    correct = int((answers == labels)[:5].sum())
    assert {name: int(value) for name, value in counts.items()} == {
        "correct": correct,
        "images": 5,
    }


@pytest.mark.parametrize("count", MESHES)
def test_agreement_is_that_of_all_devices(model, images, params, variables, count):
    valid = jnp.arange(BATCH) < 5
    program = EvaluationLoop(Agreement(), model, MESHES[count]).program
    both = {"p": {"params": params}, "q": variables}
    counts = program(both, LabelledBatch(images, jnp.zeros(BATCH, jnp.int32), valid))
    logits_p, out_p = model.clone(quantization=None).apply({"params": params}, images)
    logits_q, out_q = model.apply(variables, images)
    assert int(counts["same"]) == int(
        (logits_p.argmax(axis=-1) == logits_q.argmax(axis=-1))[:5].sum()
    )
    assert int(counts["images"]) == 5
    p, q = out_p["features"][:5], out_q["features"][:5]
    norms = jnp.linalg.norm(p, axis=-1) * jnp.linalg.norm(q, axis=-1)
    np.testing.assert_allclose(counts["cosine"], ((p * q).sum(axis=-1) / norms).sum(), rtol=1e-4)
