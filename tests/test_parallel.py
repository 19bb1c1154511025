import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import calibration, finetune, parallel, phases, synthesis
from maskaq_jax.augment import Pixels
from maskaq_jax.models import Quantization, create_model
from maskaq_jax.parallel import AXIS, REPLICATED, SHARDED

TINY = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}
MODEL = create_model("vit", 4, Quantization(3, 3), **TINY)
INDICES = np.arange(8, dtype=np.int32)
# One step of SGD: Adam's first step is the gradient's sign, which the order of a sum can turn.
SYNTHESIS = synthesis.Spec(synthesis.Settings(num_steps=4), Pixels())
FINETUNING = finetune.Spec(finetune.Settings(epochs=2, batch_size=8), Pixels())


@pytest.fixture(scope="module")
def problem():
    images = np.asarray(synthesis.draw_noise(jax.random.key(0), INDICES, (8, 8, 3), Pixels()))
    params = MODEL.clone(quantization=None).init(jax.random.key(1), images)["params"]
    quant = calibration.calibrate(MODEL, params, jnp.asarray(images))
    return images, params, {"params": params, "quant": quant}


def _synthesis_step(problem):
    import optax

    images, params, variables = problem
    optimizer = optax.sgd(0.1)
    state = synthesis.State(jnp.zeros((), jnp.int32), images, optimizer.init(images))
    batch = synthesis.Batch(INDICES, INDICES % 4, params, variables)

    def step(state, batch, key):
        return synthesis.step(MODEL, optimizer, SYNTHESIS, state, batch, key, AXIS)

    state_specs = synthesis.State(REPLICATED, SHARDED, REPLICATED)
    batch_specs = synthesis.Batch(SHARDED, SHARDED, REPLICATED, REPLICATED)
    return step, state, batch, state_specs, batch_specs


def _finetuning_step(problem):
    images, params, variables = problem
    optimizer = finetune.create_optimizer(FINETUNING.settings, 4)
    state = finetune.init_state(optimizer, variables)
    batch = finetune.Batch(INDICES, images, params)

    def step(state, batch, key):
        return finetune.step(MODEL, optimizer, FINETUNING, state, batch, key, AXIS)

    return step, state, batch, REPLICATED, finetune.Batch(SHARDED, SHARDED, REPLICATED)


STEPS = {"synthesis": _synthesis_step, "finetuning": _finetuning_step}


def _run(num_devices, step, state, batch, state_specs, batch_specs):
    mesh = parallel.make_mesh(jax.devices()[:num_devices])
    mapped = parallel.map_over_devices(
        step, mesh, (state_specs, batch_specs, REPLICATED), (state_specs, REPLICATED)
    )
    return mapped(state, batch, jax.random.key(2))


def _assert_same(actual, expected):
    # Sums over the batch in another order: float32's rounding through a few hundred operations.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), actual, expected
    )


@pytest.mark.parametrize("name", STEPS)
def test_four_devices_take_the_step_of_one(problem, name):
    parts = STEPS[name](problem)
    state, terms = _run(1, *parts)
    state_of_four, terms_of_four = _run(4, *parts)
    _assert_same(terms_of_four, terms)
    _assert_same(state_of_four, state)


@pytest.mark.parametrize("name", STEPS)
def test_pmap_takes_the_same_step(problem, name):
    step, state, batch, state_specs, batch_specs = parts = STEPS[name](problem)
    expected, terms = _run(4, *parts)

    def is_spec(node):
        return isinstance(node, jax.sharding.PartitionSpec)

    def axes(specs, tree):
        return jax.tree.map(
            lambda spec, part: jax.tree.map(lambda _: 0 if spec == SHARDED else None, part),
            specs,
            tree,
            is_leaf=is_spec,
        )

    def split(specs, tree):
        def reshape(spec, part):
            if spec != SHARDED:
                return part
            return jax.tree.map(lambda x: np.asarray(x).reshape(4, -1, *np.shape(x)[1:]), part)

        return jax.tree.map(reshape, specs, tree, is_leaf=is_spec)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of jax.pmap itself
        mapped = jax.pmap(
            step, AXIS, in_axes=(axes(state_specs, state), axes(batch_specs, batch), None)
        )
        new_state, new_terms = mapped(
            split(state_specs, state), split(batch_specs, batch), jax.random.key(2)
        )

    _assert_same(jax.tree.map(lambda x: x[0], new_terms), terms)
    if name == "synthesis":
        _assert_same(np.asarray(new_state.images).reshape(8, 8, 8, 3), expected.images)
    else:
        _assert_same(jax.tree.map(lambda x: x[0], new_state.variables), expected.variables)


def test_evaluation_counts_the_same_on_four_devices(problem):
    images, params, _ = problem
    model = MODEL.clone(quantization=None)
    labels = np.zeros(8, np.int32)
    valid = INDICES < 6
    accuracies = [
        phases.make_accuracy(model, parallel.make_mesh(jax.devices()[:count]))(
            {"params": params}, [(images, labels, valid)], lambda _: None
        )
        for count in (1, 4)
    ]
    predicted = np.asarray(model.apply({"params": params}, images)[0]).argmax(axis=-1)[:6]
    np.testing.assert_allclose(accuracies, 100 * (predicted == 0).mean())


def test_a_program_is_compiled_once(problem, monkeypatch):
    images, params, variables = problem
    traces = []
    for module, name in ((synthesis, "synthesize"), (finetune, "step")):
        original = getattr(module, name)

        def traced(*arguments, original=original, name=name):
            traces.append(name)
            return original(*arguments)

        monkeypatch.setattr(module, name, traced)

    mesh, key = parallel.make_mesh(), jax.random.key(0)
    synthesize_batch = phases.make_synthesis(MODEL, SYNTHESIS, mesh)
    for indices in (INDICES, INDICES + 8):
        samples, terms = synthesize_batch(key, indices, params, variables, lambda _: None)
    assert samples.images.shape == (8, 8, 8, 3)
    assert np.isfinite(list(terms.values())).all()

    init_state, train_epoch = phases.make_finetuning(MODEL, FINETUNING, 12, mesh)
    state = init_state(variables)
    samples = phases.SampleSet(np.tile(images, (2, 1, 1, 1))[:12], np.zeros(12))
    for epoch in range(2):
        state, _ = train_epoch(state, epoch, samples, params, key, lambda _: None)
    assert state.step == 4  # 12 images fill two batches of 8
    assert sorted(traces) == ["step", "synthesize"]
