"""A result must not depend on how many devices made it."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import calibration, evaluate, finetune, losses, parallel, phases, synthesis
from maskaq_jax.augment import FinetuningView, Pixels
from maskaq_jax.models import Quantization, create_model
from maskaq_jax.parallel import AXIS, REPLICATED, SHARDED

TINY = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
BATCH = 8
KEY = jax.random.key(3)
MESHES = {count: parallel.make_mesh(jax.devices()[:count]) for count in (1, 4)}

SYNTHESIS = synthesis.Spec(synthesis.Settings(num_steps=10), Pixels())
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
    batch = synthesis.Batch(indices, indices % 4, params, variables)
    batch_specs = synthesis.Batch(SHARDED, SHARDED, REPLICATED, REPLICATED)
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
    done = []
    first, _ = synthesize_batch(KEY, np.arange(8), params, variables, done.append)
    with _compilations() as compiled:
        second, terms = synthesize_batch(KEY, np.arange(8, 16), params, variables, _ignore)
    assert compiled == []
    assert traces["synthesize"] == 1
    assert done == [80, 16]
    assert terms["redrawn"] == 0
    assert not np.allclose(first.images, second.images)


class _Remembering:
    """Samples that remember which of them were asked for."""

    def __init__(self, images):
        self._images, self.seen = images, []

    @property
    def images(self):
        return self

    def __getitem__(self, indices):
        self.seen.append(indices.tolist())
        return self._images[indices]


@pytest.fixture(scope="module")
def epochs(model, images, params, variables, traces):
    """Two epochs of 12 samples, and a third after the state was put on the devices anew."""
    init_state, train_epoch = phases.make_finetuning(model, FINETUNING, 12, MESHES[4])
    samples = _Remembering(np.tile(images, (2, 1, 1, 1))[:12])
    done, compiled = [], []
    state = init_state(variables)
    for epoch in range(3):
        if epoch == 2:
            state = init_state(state.variables)
        with _compilations() as programs:
            state, _ = train_epoch(state, epoch, samples, params, KEY, done.append)
        compiled.append(programs)
    return samples.seen, done, compiled


def test_every_epoch_runs_one_program(epochs, traces):
    _, _, (first, *later) = epochs
    assert first
    assert later == [[], []]
    assert traces["step"] == 1


def test_an_epoch_sees_every_sample_and_fills_its_last_batch(epochs):
    seen, done, _ = epochs
    assert done == [BATCH] * 6
    orders = [first + second for first, second in zip(seen[::2], seen[1::2], strict=True)]
    for order in orders:
        assert sorted(order[:12]) == list(range(12))
        assert order[12:] == order[:4]
    assert orders[0] != orders[1]


def test_every_evaluation_runs_one_program(model, images, variables, traces):
    accuracy = phases.make_accuracy(model, MESHES[4])
    batches = [(np.asarray(images), np.zeros(BATCH, np.int32), np.ones(BATCH, bool))] * 2
    percent = accuracy(variables, batches, _ignore)
    with _compilations() as compiled:
        assert accuracy(variables, batches, _ignore) == percent
    assert compiled == []
    assert traces["count_correct"] == 1


def test_a_batch_that_is_never_finite_is_an_error(model, params, variables):
    # The class loss alone, which compiles fastest.
    settings = synthesis.Settings(
        num_steps=1, weights=synthesis.LossWeights(0.0, 1.0, 0.0, 0.0, 0.0)
    )
    spec = synthesis.Spec(settings, Pixels())
    synthesize_batch = phases.make_synthesis(model, spec, MESHES[1])
    broken = jax.tree.map(lambda weight: jnp.full_like(weight, jnp.nan), params)
    with pytest.raises(FloatingPointError, match=r"images 8 to 15 .* lower config\.synthesis"):
        synthesize_batch(KEY, np.arange(8, 16), broken, variables, _ignore)


def test_arrays_split_along_their_first_axis_and_scalars_do_not():
    tree = {"images": jnp.zeros((8, 2)), "step": jnp.zeros(())}
    assert parallel.leading_axis_specs(tree) == {"images": SHARDED, "step": REPLICATED}
    split = parallel.put(tree["images"], MESHES[4], SHARDED)
    assert {shard.data.shape for shard in split.addressable_shards} == {(2, 2)}


def test_a_mesh_takes_every_device_unless_told():
    assert parallel.make_mesh().devices.size == jax.device_count() == 4
    assert parallel.make_mesh().axis_names == (AXIS,)
