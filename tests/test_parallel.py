"""A result must not depend on how many devices made it."""

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import (
    calibration,
    evaluate,
    finetune,
    first_images,
    losses,
    parallel,
    phases,
    programs,
    synthesis,
    synthesis_terms,
)
from maskaq_jax.augment import FinetuningView
from maskaq_jax.models import Quantization, create_model
from maskaq_jax.parallel import AXIS, REPLICATED, SHARDED
from maskaq_jax.pixels import Pixels

TINY = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
BATCH = 8
KEY = jax.random.key(3)
MESHES = {count: parallel.make_mesh(jax.devices()[:count]) for count in (1, 4)}

SYNTHESIS = synthesis.Spec(synthesis.Settings(num_steps=10, background="white"), Pixels())
# At learning rate 1 an update is as large as its gradient, and stands out of the weight's rounding.
FINETUNING = finetune.Spec(
    finetune.Settings(
        batch_size=BATCH,
        learning_rate=1.0,
        quantizer_learning_rate=1.0,
        view=FinetuningView(jitter=0.0, grey=0.0, blur=0.0),
    ),
    Pixels(),
)


@pytest.fixture(scope="module")
def model():
    return create_model("vit", 4, Quantization(4, 4), **TINY)


@pytest.fixture(scope="module")
def images():
    # Of different contrast, so that a norm over all of them is not the mean of their norms.
    contrast = jnp.linspace(0.2, 2.0, BATCH)[:, None, None, None]
    return contrast * jax.random.normal(jax.random.key(0), (BATCH, 8, 8, 3))


@pytest.fixture(scope="module")
def params(model, images):
    init = jax.jit(model.clone(quantization=None).init)
    return init(jax.random.key(1), images)["params"]


@pytest.fixture(scope="module")
def variables(model, params, images):
    # Weights that differ from P's, so that P and Q disagree by more than rounding.
    moved = jax.tree.map(lambda weight: 1.1 * weight + 0.01, params)
    return {"params": moved, "quant": calibration.calibrate(model, params, images)}


def _assert_same(actual, expected, tolerance):
    """Every leaf's largest error is at most `tolerance` of the largest value in it."""
    expected = jax.tree_util.tree_leaves_with_path(expected)
    for (path, value), found in zip(expected, jax.tree.leaves(actual), strict=True):
        value, found = np.asarray(value, np.float32), np.asarray(found, np.float32)
        error = np.abs(found - value).max()
        assert error <= tolerance * np.abs(value).max() + 1e-6, (jax.tree_util.keystr(path), error)


# ---- A synthesis step and a fine-tuning step: the state before, the batch, how both are split. ---


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


# One float32 sum of 8 images in two orders differs by some 1e-7 of its size; a forward and a
# backward pass make that 1e-5 at most. A gradient taken of the wrong batch is off by more than
# a tenth. (A code that flips at a rounding tie would show, and does not with these numbers.)
TOLERANCE = 1e-4


def test_four_devices_take_the_step_of_one(stepped):
    actual, expected = (_drop_images_of_tiny_gradient(stepped[count][0]) for count in (4, 1))
    _assert_same(actual, expected, TOLERANCE)


def test_terms_are_those_of_the_global_batch(stepped):
    _assert_same(stepped[4][1], stepped[1][1], TOLERANCE)


def test_a_step_changes_the_state_by_more_than_the_tolerance(problem, stepped):
    with pytest.raises(AssertionError):
        _assert_same(stepped[4][0], problem[1], 100 * TOLERANCE)


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
    _assert_same(state, expected, 1e-6)
    _assert_same(terms, expected_terms, 1e-6)


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


# ---- The phases: whole batches and epochs. -------------------------------------------------------


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


@pytest.fixture(scope="module")
def traces():
    """Counts how often the functions that the phases compile are traced."""
    counts = {"synthesize": 0, "step": 0, "count_correct": 0}

    def counting(module, name):
        function = getattr(module, name)

        def counted(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return module, name, counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*counting(synthesis, "synthesize"))
        patch.setattr(*counting(finetune, "step"))
        patch.setattr(*counting(evaluate, "count_correct"))
        yield counts


def _ignore(done):
    del done


def test_every_batch_of_synthesis_runs_one_program(model, params, variables, traces):
    # 12 steps are a chunk of 10 and one of 2.
    spec = synthesis.Spec(synthesis.Settings(num_steps=12), Pixels())
    synthesize_batch = phases.make_synthesis(model, spec, MESHES[4])
    shares = [parallel.share_batch(first, first + 8, MESHES[4]) for first in (0, 8)]
    before = traces["synthesize"]
    first = list(synthesize_batch(KEY, shares[0], params, variables))
    with _compilations() as compiled:
        second = list(synthesize_batch(KEY, shares[1], params, variables))
    assert compiled == []
    assert traces["synthesize"] == before + 1
    assert [(progress.attempt, progress.step) for progress in first] == [(0, 10), (0, 12)]
    images = [parallel.fetch(progress[-1].state.images) for progress in (first, second)]
    assert not np.allclose(*images)


@pytest.mark.parametrize("counts", [(1, 4), (4, 1), (4, 4)])
def test_a_batch_continues_where_it_was_stopped(model, params, variables, counts):
    """On as many devices as before, to the same bits."""
    spec = synthesis.Spec(synthesis.Settings(num_steps=12), Pixels())
    images = []
    before, after = (MESHES[count] for count in counts)
    for progress in _synthesize(model, spec, before, params, variables, 8):
        images.append(parallel.fetch(progress.state.images))
        if progress.step == 10:
            leaves = jax.tree.leaves(parallel.fetch(progress.state))
            saved = phases.SavedProgress(progress.attempt, progress.step, leaves)
    (continued,) = _synthesize(model, spec, after, params, variables, 8, saved)
    continued = parallel.fetch(continued.state.images)
    if before == after:
        np.testing.assert_array_equal(continued, images[-1])
    else:
        assert np.abs(continued - images[-1]).mean() < 1e-3


_make_synthesis = functools.cache(phases.make_synthesis)  # once for all tests of a spec


def _synthesize(model, spec, mesh, params, variables, count, saved=None):
    synthesize_batch = _make_synthesis(model, spec, mesh)
    return synthesize_batch(KEY, parallel.share_batch(0, count, mesh), params, variables, saved)


def test_a_batch_that_the_devices_do_not_divide_is_padded(model, params, variables):
    """Six images on four devices are those of one device, and their terms too."""
    spec = synthesis.Spec(synthesis.Settings(num_steps=2), Pixels())
    results = {}
    for count, mesh in MESHES.items():
        (progress,) = _synthesize(model, spec, mesh, params, variables, 6)
        valid = parallel.share_batch(0, 6, mesh).valid
        results[count] = parallel.fetch(progress.state.images)[valid], progress.terms
    assert results[4][0].shape == results[1][0].shape == (6, 8, 8, 3)
    # Adam divides by the gradient's size, so what is tiny in it may differ.
    assert np.abs(results[4][0] - results[1][0]).mean() < 1e-4
    for name, term in results[1][1].items():
        np.testing.assert_allclose(results[4][1][name], term, rtol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def epochs(model, images, params, variables, traces):
    """Two epochs of 12 samples, and a third after the state was put on the devices anew."""
    init_state, train = phases.make_finetuning(model, FINETUNING, 12, KEY, MESHES[4])
    seen, compiled, num_read = [], [], []
    before = traces["step"]

    def read_images(indices):
        seen.append(indices.tolist())
        return np.asarray(images)[indices % BATCH]

    state = init_state(variables)
    for steps in (range(4), range(4, 6)):
        training = train(init_state(state.variables), steps, read_images, params)
        for _ in steps:
            with _compilations() as programs:
                state, _ = next(training)
            compiled.append(programs)
            num_read.append(len(seen))
        assert next(training, None) is None
    return seen, compiled, num_read, traces["step"] - before


def test_every_step_runs_one_program(epochs):
    _, (first, second, *later), _, num_traces = epochs
    assert first
    # The second step reads the images of the second epoch, whose order is drawn eagerly.
    assert len(second) <= 1
    assert later == [[]] * 4
    assert num_traces == 1


def test_a_step_reads_the_images_of_the_next_one_that_trains_on_the_same_samples(epochs):
    _, _, num_read, _ = epochs
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
    spec = finetune.Spec(dataclasses.replace(FINETUNING.settings, batch_size=6), Pixels())
    results = {}
    for count, mesh in MESHES.items():
        init_state, train = phases.make_finetuning(model, spec, 8, KEY, mesh)
        read_images = np.asarray(images).__getitem__
        results[count] = next(train(init_state(variables), range(1), read_images, params))
    _assert_same(results[4][0].variables["params"], results[1][0].variables["params"], TOLERANCE)
    for name, term in results[1][1].items():
        np.testing.assert_allclose(results[4][1][name], term, rtol=1e-4, err_msg=name)


def test_every_evaluation_runs_one_program(model, images, variables, traces):
    accuracy = phases.make_accuracy(model, MESHES[4])
    before = traces["count_correct"]
    batches = [(np.asarray(images), np.zeros(BATCH, np.int32), np.ones(BATCH, bool))] * 2
    measured = accuracy(variables, batches, _ignore)
    with _compilations() as compiled:
        assert accuracy(variables, batches, _ignore) == measured
    assert compiled == []
    assert traces["count_correct"] == before + 1


def test_without_a_valid_image_there_is_no_accuracy(model, images, variables):
    accuracy = phases.make_accuracy(model, MESHES[4])
    batch = np.asarray(images), np.zeros(BATCH, np.int32), np.zeros(BATCH, bool)
    with pytest.raises(OSError, match="no evaluation image could be read"):
        accuracy(variables, [batch], _ignore)


def test_a_batch_that_is_never_finite_is_an_error(model, params, variables):
    # The class loss alone, which compiles fastest.
    settings = synthesis.Settings(
        num_steps=1, weights=synthesis_terms.LossWeights(0.0, 1.0, 0.0, 0.0, 0.0)
    )
    spec = synthesis.Spec(settings, Pixels())
    synthesize_batch = phases.make_synthesis(model, spec, MESHES[1])
    broken = jax.tree.map(lambda weight: jnp.full_like(weight, jnp.nan), params)
    share = parallel.share_batch(8, 16, MESHES[1])
    with pytest.raises(FloatingPointError, match=r"images 8 to 15 .* lower config\.synthesis"):
        list(synthesize_batch(KEY, share, broken, variables))


def test_a_batch_that_is_not_finite_is_drawn_again(model, params, variables, monkeypatch):
    settings = synthesis.Settings(
        num_steps=1, weights=synthesis_terms.LossWeights(0.0, 1.0, 0.0, 0.0, 0.0)
    )
    spec = synthesis.Spec(settings, Pixels())
    draw, bad = first_images.draw_images, jax.random.fold_in(KEY, 0)

    def draw_once_badly(key, *arguments):
        is_bad = (jax.random.key_data(key) == jax.random.key_data(bad)).all()
        return jnp.where(is_bad, jnp.nan, draw(key, *arguments))

    monkeypatch.setattr(first_images, "draw_images", draw_once_badly)
    synthesize_batch = phases.make_synthesis(model, spec, MESHES[4])
    share = parallel.share_batch(0, 8, MESHES[4])
    *_, last = synthesize_batch(KEY, share, params, variables)
    assert last.attempt == 1
    assert np.isfinite(parallel.fetch(last.state.images)).all()


@pytest.mark.parametrize("count", [1, 3, 4, 6, 8])
def test_shares_hold_every_image_once(count):
    share = parallel.share_batch(10, 10 + count, MESHES[4])
    assert len(share.indices) % 4 == 0
    assert share.indices[share.valid].tolist() == list(range(10, 10 + count))
    assert set(share.indices) == set(range(10, 10 + count))
    assert share.is_padded == (count % 4 != 0)


def test_batches_of_a_dataset_are_of_one_size_and_end_with_it():
    shares = list(parallel.share_batches(11, 6, MESHES[4]))
    assert {len(share.indices) for share in shares} == {8}
    seen = [share.indices[share.valid].tolist() for share in shares]
    assert seen == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert max(share.indices.max() for share in shares) == 10


def test_a_batch_is_no_larger_than_all_images_together():
    (share,) = parallel.share_batches(3, 256, MESHES[4])
    assert share.indices[share.valid].tolist() == [0, 1, 2]
    assert len(share.indices) == 4


def test_what_is_put_on_the_devices_can_be_fetched():
    tree = {"images": np.arange(16.0).reshape(8, 2), "step": np.float32(3)}
    split = parallel.put(tree["images"], MESHES[4], SHARDED)
    np.testing.assert_array_equal(parallel.fetch(split), tree["images"])
    same = parallel.fetch(parallel.put(tree, MESHES[4], REPLICATED))
    jax.tree.map(np.testing.assert_array_equal, same, tree)


def test_arrays_split_along_their_first_axis_and_scalars_do_not():
    tree = {"images": jnp.zeros((8, 2)), "step": jnp.zeros(())}
    assert parallel.leading_axis_specs(tree) == {"images": SHARDED, "step": REPLICATED}
    split = parallel.put(tree["images"], MESHES[4], SHARDED)
    assert {shard.data.shape for shard in split.addressable_shards} == {(2, 2)}


def test_a_mesh_takes_every_device_unless_told():
    assert parallel.make_mesh().devices.size == jax.device_count() == 4
    assert parallel.make_mesh().axis_names == (AXIS,)
