"""A step on several devices is that of one: of synthesis, fine-tuning and evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import (
    evaluate,
    finetune,
    losses,
    parallel,
    programs,
    synthesis,
    synthesis_terms,
)
from maskaq_jax.parallel import AXIS, REPLICATED, SHARDED
from maskaq_jax.pixels import Pixels
from tests.devices.common import BATCH, FINETUNING, KEY, MESHES, TOLERANCE, assert_same

pytestmark = pytest.mark.usefixtures("few_optimisations")

SYNTHESIS = synthesis.Spec(synthesis.Settings(num_steps=10, background="white"), Pixels())


def _synthesis_problem(model, images, params, variables):
    optimizer = synthesis.create_optimizer(SYNTHESIS.settings)
    step = functools.partial(synthesis.step, model, optimizer, SYNTHESIS)
    state = synthesis.init_state(optimizer, images)
    indices = jnp.arange(BATCH, dtype=jnp.int32)
    batch = synthesis_terms.Batch(indices, indices % 4, params, variables)
    batch_specs = synthesis_terms.Batch(SHARDED, SHARDED, REPLICATED, REPLICATED)
    return step, state, batch, parallel.leading_axis_specs(state), batch_specs


def _finetuning_problem(model, images, params, variables):
    optimizer = finetune.create_optimizer(FINETUNING.settings, 10)
    step = functools.partial(finetune.step, model, optimizer, FINETUNING)
    state = finetune.init_state(optimizer, variables)
    batch = finetune.Batch(jnp.arange(BATCH, dtype=jnp.int32), images, params)
    return step, state, batch, REPLICATED, finetune.Batch(SHARDED, SHARDED, REPLICATED)


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
    if not isinstance(state, synthesis.State):
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
        lambda part: losses.total_variation_loss(part, AXIS), MESHES[4], SHARDED, REPLICATED
    )
    np.testing.assert_allclose(over_devices(images), total, rtol=1e-6)


@pytest.mark.parametrize("count", MESHES)
def test_evaluation_counts_are_those_of_all_devices(model, images, variables, count):
    labels = jnp.arange(BATCH, dtype=jnp.int32) % 4
    valid = jnp.arange(BATCH) < 5
    counted = parallel.map_over_devices(
        lambda *arguments: evaluate.count_correct(model, variables, *arguments, AXIS),
        MESHES[count],
        (SHARDED, SHARDED, SHARDED),
        REPLICATED,
    )(images, labels, valid)
    answers = jax.jit(model.apply)(variables, images)[0].argmax(axis=-1)
    assert [int(number) for number in counted] == [int((answers == labels)[:5].sum()), 5]


@pytest.mark.parametrize("count", MESHES)
def test_agreement_is_that_of_all_devices(model, images, params, variables, count):
    valid = jnp.arange(BATCH) < 5
    program = programs.map_agreement(model, MESHES[count])
    same, cosine, total = program(params, variables, images, valid)
    logits_p, out_p = model.clone(quantization=None).apply({"params": params}, images)
    logits_q, out_q = model.apply(variables, images)
    assert int(same) == int((logits_p.argmax(axis=-1) == logits_q.argmax(axis=-1))[:5].sum())
    assert int(total) == 5
    p, q = out_p["features"][:5], out_q["features"][:5]
    norms = jnp.linalg.norm(p, axis=-1) * jnp.linalg.norm(q, axis=-1)
    np.testing.assert_allclose(cosine, ((p * q).sum(axis=-1) / norms).sum(), rtol=1e-4)
