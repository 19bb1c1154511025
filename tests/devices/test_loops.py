"""The loops on several devices: whole batches and epochs, and how often they are compiled."""

import contextlib
import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.data.batches import LabelledBatch
from maskaq_jax.devices import parallel
from maskaq_jax.evaluation.classification import Classification
from maskaq_jax.evaluation.loop import EvaluationLoop
from maskaq_jax.finetuning import step as finetuning
from maskaq_jax.finetuning.loop import FinetuningLoop
from maskaq_jax.finetuning.step import FinetuningSpec
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.synthesis import first_images
from maskaq_jax.synthesis import step as synthesis
from maskaq_jax.synthesis import terms as synthesis_terms
from maskaq_jax.synthesis.loop import SavedProgress, SynthesisLoop
from maskaq_jax.synthesis.step import SynthesisSettings, SynthesisSpec
from tests.devices.common import BATCH, FINETUNING, KEY, MESHES, TOLERANCE, assert_same


@contextlib.contextmanager
def _compilations():
    """Collects an entry for every program that XLA compiles."""
    compiled = []

    def listen(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(details)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@contextlib.contextmanager
def _traced_once(owner, name):
    """A function that the loops compile is traced once, neither more often nor never."""
    chex.clear_trace_counter()
    watched = chex.assert_max_traces(getattr(owner, name), n=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, watched)
        yield
    with pytest.raises(AssertionError, match="traced > 1 times"):
        jax.eval_shape(watched, 0.0)  # the second time


def _ignore(done):
    del done


def test_every_batch_of_synthesis_runs_one_program(model, params, variables):
    # 12 steps are a chunk of 10 and one of 2.
    spec = SynthesisSpec(SynthesisSettings(num_steps=12), Pixels())
    loop = SynthesisLoop(model, spec, MESHES[4])
    rows = [parallel.rows_of_batch(first, first + 8, MESHES[4]) for first in (0, 8)]
    with _traced_once(synthesis, "synthesize"):
        first = list(loop.run(KEY, rows[0], params, variables))
        with _compilations() as compiled:
            second = list(loop.run(KEY, rows[1], params, variables))
    assert compiled == []
    assert [(progress.attempt, progress.step) for progress in first] == [(0, 10), (0, 12)]
    images = [parallel.fetch(progress[-1].state.images) for progress in (first, second)]
    assert not np.allclose(*images)


@pytest.mark.parametrize("counts", [(1, 4), (4, 1), (4, 4)])
def test_a_batch_continues_where_it_was_stopped(model, params, variables, counts):
    """On as many devices as before, to the same bits."""
    spec = SynthesisSpec(SynthesisSettings(num_steps=12), Pixels())
    images = []
    before, after = (MESHES[count] for count in counts)
    for progress in _synthesize(model, spec, before, params, variables, 8):
        images.append(parallel.fetch(progress.state.images))
        if progress.step == 10:
            state = parallel.fetch(progress.state)
            saved = SavedProgress(progress.attempt, progress.step, state)
    (continued,) = _synthesize(model, spec, after, params, variables, 8, saved)
    continued = parallel.fetch(continued.state.images)
    if before == after:
        np.testing.assert_array_equal(continued, images[-1])
    else:
        assert np.abs(continued - images[-1]).mean() < 1e-3


_make_loop = functools.cache(SynthesisLoop)  # once for all tests of a spec


def _synthesize(model, spec, mesh, params, variables, count, saved=None):
    rows = parallel.rows_of_batch(0, count, mesh)
    return _make_loop(model, spec, mesh).run(KEY, rows, params, variables, saved)


def test_a_batch_that_the_devices_do_not_divide_is_padded(model, params, variables):
    """Six images on four devices are those of one device, and their terms too."""
    spec = SynthesisSpec(SynthesisSettings(num_steps=2), Pixels())
    results = {}
    for count, mesh in MESHES.items():
        (progress,) = _synthesize(model, spec, mesh, params, variables, 6)
        valid = parallel.rows_of_batch(0, 6, mesh).valid
        results[count] = parallel.fetch(progress.state.images)[valid], progress.terms
    assert results[4][0].shape == results[1][0].shape == (6, 8, 8, 3)
    # Adam divides by the gradient's size, so what is tiny in it may differ.
    assert np.abs(results[4][0] - results[1][0]).mean() < 1e-4
    for name, term in results[1][1].items():
        np.testing.assert_allclose(results[4][1][name], term, rtol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def epochs(model, images, params, variables):
    """Two epochs of 12 samples, and a third after the state was put on the devices anew."""
    loop = FinetuningLoop(model, FINETUNING, 12, KEY, MESHES[4])
    seen, compiled, num_read = [], [], []

    def read_images(indices):
        seen.append(indices.tolist())
        return np.asarray(images)[indices % BATCH]

    state = loop.init_state(variables)
    with _traced_once(finetuning, "step"):
        for steps in (range(4), range(4, 6)):
            training = loop.run(loop.init_state(state.variables), steps, read_images, params)
            for _ in steps:
                with _compilations() as programs:
                    state, _ = next(training)
                compiled.append(programs)
                num_read.append(len(seen))
            assert next(training, None) is None
    return seen, compiled, num_read


def test_every_step_runs_one_program(epochs):
    _, (first, second, *later), _ = epochs
    assert first
    # The second step reads the images of the second epoch, whose order is drawn eagerly.
    assert len(second) <= 1
    assert later == [[]] * 4


def test_a_step_reads_the_images_of_the_next_one_that_trains_on_the_same_samples(epochs):
    _, _, num_read = epochs
    assert num_read == [2, 3, 4, 4, 6, 6]


def test_an_epoch_sees_every_sample_and_fills_its_last_batch(epochs):
    seen, *_ = epochs
    orders = [first + second for first, second in zip(seen[:6:2], seen[1:6:2], strict=True)]
    for order in orders:
        assert sorted(order[:12]) == list(range(12))
        assert order[12:] == order[:4]
    assert orders[0] != orders[1]


def test_a_training_batch_that_the_devices_do_not_divide_is_padded(
    model, images, params, variables
):
    spec = FinetuningSpec(dataclasses.replace(FINETUNING.settings, batch_size=6), Pixels())
    results = {}
    for count, mesh in MESHES.items():
        loop = FinetuningLoop(model, spec, 8, KEY, mesh)
        read_images, state = np.asarray(images).__getitem__, loop.init_state(variables)
        results[count] = next(loop.run(state, range(1), read_images, params))
    assert_same(results[4][0].variables["params"], results[1][0].variables["params"], TOLERANCE)
    for name, term in results[1][1].items():
        np.testing.assert_allclose(results[4][1][name], term, rtol=1e-4, err_msg=name)


def test_a_training_batch_holds_no_sample_twice(model, images, params, variables):
    spec = FinetuningSpec(dataclasses.replace(FINETUNING.settings, batch_size=64), Pixels())
    loop = FinetuningLoop(model, spec, 6, KEY, MESHES[1])
    read = []

    def read_images(indices):
        read.append(sorted(indices.tolist()))
        return np.asarray(images)[indices]

    next(loop.run(loop.init_state(variables), range(1), read_images, params))
    assert read == [list(range(6))]


def test_every_evaluation_runs_one_program(model, images, variables):
    loop = EvaluationLoop(Classification(), model, MESHES[4])
    batch = LabelledBatch(np.asarray(images), np.zeros(BATCH, np.int32), np.ones(BATCH, bool))
    with _traced_once(Classification, "count"):
        measured = loop.run(variables, [batch] * 2, _ignore)
        with _compilations() as compiled:
            assert loop.run(variables, [batch] * 2, _ignore) == measured
    assert compiled == []


def test_without_a_valid_image_there_is_no_accuracy(model, images, variables):
    loop = EvaluationLoop(Classification(), model, MESHES[4])
    batch = LabelledBatch(np.asarray(images), np.zeros(BATCH, np.int32), np.zeros(BATCH, bool))
    with pytest.raises(OSError, match="no evaluation image could be read"):
        loop.run(variables, [batch], _ignore)


def test_a_batch_that_is_never_finite_is_an_error(model, params, variables):
    # The class loss alone, which compiles fastest.
    settings = SynthesisSettings(
        num_steps=1, weights=synthesis_terms.LossWeights(0.0, 1.0, 0.0, 0.0, 0.0)
    )
    spec = SynthesisSpec(settings, Pixels())
    loop = SynthesisLoop(model, spec, MESHES[1])
    broken = jax.tree.map(lambda weight: jnp.full_like(weight, jnp.nan), params)
    rows = parallel.rows_of_batch(8, 16, MESHES[1])
    with pytest.raises(FloatingPointError, match=r"images 8 to 15 .* lower config\.synthesis"):
        list(loop.run(KEY, rows, broken, variables))


def test_a_batch_that_is_not_finite_is_drawn_again(model, params, variables, monkeypatch):
    settings = SynthesisSettings(
        num_steps=1, weights=synthesis_terms.LossWeights(0.0, 1.0, 0.0, 0.0, 0.0)
    )
    spec = SynthesisSpec(settings, Pixels())
    draw, bad = first_images.draw_images, jax.random.fold_in(KEY, 0)

    def draw_once_badly(key, *arguments):
        is_bad = (jax.random.key_data(key) == jax.random.key_data(bad)).all()
        return jnp.where(is_bad, jnp.nan, draw(key, *arguments))

    monkeypatch.setattr(first_images, "draw_images", draw_once_badly)
    loop = SynthesisLoop(model, spec, MESHES[4])
    rows = parallel.rows_of_batch(0, 8, MESHES[4])
    *_, last = loop.run(KEY, rows, params, variables)
    assert last.attempt == 1
    assert np.isfinite(parallel.fetch(last.state.images)).all()
