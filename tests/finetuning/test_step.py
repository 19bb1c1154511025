import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from maskaq_jax import calibration, losses, quantizers, torch_import
from maskaq_jax.devices import parallel
from maskaq_jax.devices.keys import image_keys, named_key
from maskaq_jax.finetuning import step as finetuning
from maskaq_jax.finetuning.loop import FinetuningLoop
from maskaq_jax.finetuning.optimizer import create_optimizer
from maskaq_jax.finetuning.step import FinetuningBatch, FinetuningSettings, FinetuningSpec
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.images.views import FinetuningView
from maskaq_jax.models import Quantization, create_model
from tests.reference import quantizer_path

TINY = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}
STILL = FinetuningView(min_area=1.0, flip=0.0, jitter=0.0, grey=0.0, blur=0.0)


@pytest.mark.parametrize(
    ("family", "bits"), [("vit", 3), pytest.param("swin", 4, marks=pytest.mark.slow)]
)
def test_terms_gradients_and_first_step_agree_with_the_reference(golden, close, family, bits):
    arrays = golden(family)
    arguments = {name: value for name, value in arrays.arguments.items() if name != "arch"}
    model = create_model(family, quantization=Quantization(bits, bits), **arguments)
    params = torch_import.load_torch_weights(arrays.weights, model)
    quant = calibration.calibrate(model, params, arrays["images"])
    variables = {"params": params, "quant": quant}
    images = jnp.asarray(arrays["images2"])

    def loss(trained):
        variables_q = finetuning.with_trainable(variables, trained)
        terms = finetuning.loss_terms(model, FinetuningSettings(), params, variables_q, images)
        return sum(terms.values()), terms

    trained = finetuning.trainable(variables)
    gradient, terms = jax.jit(jax.grad(loss, has_aux=True))(trained)
    distillation, attention, total = arrays[f"qat_terms_q{bits}"]
    close(terms["distillation"], distillation)
    close(terms["attention"] / 10, attention)
    close(sum(terms.values()), total)

    if family == "vit":
        # The reference scales the gradient of the classifier's step by 0.01 more than all others'.
        gradient["quant"]["head"]["input"]["step"] *= 0.01
    norms = json.loads(str(arrays[f"qat_gradnorm_q{bits}"]))
    largest = max(norms.values())
    weights = torch_import.to_torch_state(gradient["params"])
    compared = 0
    for name, expected in norms.items():
        if name in weights:
            actual = np.linalg.norm(weights[name])
        elif name.startswith("patch_embed") or name.split(".")[-1] not in ("alpha", "zero_point"):
            continue  # the patch embedding's input is not quantized
        else:
            node = gradient["quant"]
            quantizer, leaf = name.rsplit(".", 1)
            for key in quantizer_path(quantizer):
                node = node[key]
            actual = abs(node["step" if leaf == "alpha" else leaf])
        assert abs(actual - expected) <= 1e-3 * max(expected, 1e-3 * largest), name
        compared += 1
    assert compared == len(weights) + len(jax.tree.leaves(trained["quant"]))

    optimizer = optax.sgd(1e-3, momentum=0.9, nesterov=True)
    updates, _ = optimizer.update(gradient, optimizer.init(trained))
    trained = optax.apply_updates(trained, updates)
    expected = arrays[f"logits_q{bits}_after_step"]

    @jax.jit
    def error(trained):
        logits = model.apply(finetuning.with_trainable(variables, trained), images)[0]
        return jnp.abs(logits - expected).max() / jnp.abs(expected).max()

    # A step moves each channel's largest weight, whose code is a rounding tie, so the last bit of
    # one weight can decide a code: at 4 bits it does, in the patch embedding.
    assert any(error(other) <= 1e-3 for other in (trained, *_last_bits_apart(trained, bits)))


def _last_bits_apart(trained, bits):
    """`trained` with one channel's largest weight moved to the next float, where its code differs.

    Each channel of every kernel in turn.
    """
    flat = traverse_util.flatten_dict(trained["params"])
    for path in reversed(flat):
        if path[-1] != "kernel":
            continue
        kernel = np.asarray(flat[path])
        rows = kernel.reshape(-1, kernel.shape[-1])
        columns = np.arange(rows.shape[1])
        largest = np.abs(rows).argmax(axis=0)
        for direction in (np.float32(-np.inf), np.float32(np.inf)):
            moved = rows.copy()
            moved[largest, columns] = np.nextafter(rows[largest, columns], direction)
            before, after = (quantizers.quantize_weight(w, bits) for w in (rows, moved))
            for column in np.flatnonzero(np.abs(after - before).max(axis=0) > 1e-4):
                one = rows.copy()
                one[:, column] = moved[:, column]
                params = flat | {path: one.reshape(kernel.shape)}
                yield trained | {"params": traverse_util.unflatten_dict(params)}


@pytest.fixture(scope="module")
def problem():
    model = create_model("vit", 4, Quantization(3, 3), **TINY)
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 3))
    init = jax.jit(model.clone(quantization=None).init)
    params = init(jax.random.key(1), images)["params"]
    variables = {"params": params, "quant": calibration.calibrate(model, params, images)}
    return model, variables, FinetuningBatch(jnp.arange(8), images, params)


def _train(problem, settings, num_steps):
    model, variables, batch = problem
    optimizer = create_optimizer(settings, num_steps)
    spec = FinetuningSpec(settings, Pixels())
    step = jax.jit(finetuning.step, static_argnums=(0, 1, 2))
    state = finetuning.init_state(optimizer, variables)
    history = []
    for _ in range(num_steps):
        state, terms = step(model, optimizer, spec, state, batch, jax.random.key(2))
        history.append(sum(float(term) for term in terms.values()))
    return state, history


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_brings_q_closer_to_p(problem, optimizer):
    settings = FinetuningSettings(optimizer=optimizer, learning_rate=3e-3, view=STILL)
    _, history = _train(problem, settings, 20)
    assert np.mean(history[-3:]) < 0.9 * history[0]


def test_everything_is_trained_but_sign_and_size(problem):
    _, variables, _ = problem
    settings = FinetuningSettings(optimizer="adam", view=STILL)
    state, _ = _train(problem, settings, 2)
    before = jax.tree_util.tree_leaves_with_path(variables)
    after = jax.tree.leaves(state.variables)
    for (path, old), new in zip(before, after, strict=True):
        name = jax.tree_util.keystr(path)
        fixed = name.endswith((".signed", ".size"))
        # Where no value lies outside the range, the zero point has no gradient.
        if not name.endswith(".zero_point"):
            assert np.array_equal(old, new) == fixed, name
        elif name.endswith("['mlp']['fc2']['input'].zero_point"):
            assert not np.array_equal(old, new), name


def test_trained_parts_go_back_where_they_came_from(problem):
    _, variables, _ = problem
    back = finetuning.with_trainable(variables, finetuning.trainable(variables))
    jax.tree.map(np.testing.assert_array_equal, variables, back)


def test_full_precision_variables_can_be_trained_too():
    variables = {"params": {"w": jnp.ones(3)}}
    assert finetuning.trainable(variables) == {"params": variables["params"], "quant": {}}


def test_the_mask_changes_the_terms_of_patches_alone(problem):
    model, variables, batch = problem

    def terms(**changes):
        settings = dataclasses.replace(FinetuningSettings(), **changes)
        return finetuning.loss_terms(model, settings, batch.params, variables, batch.images)

    masked, unmasked = terms(), terms(important_weight=1.0)
    assert masked["distillation"] == unmasked["distillation"]
    assert masked["attention"] != unmasked["attention"]
    assert set(terms(attention_weight=0.0)) == {"distillation"}
    assert terms(block_weight=2.0)["blocks"] == 2 * terms(block_weight=1.0)["blocks"] > 0
    assert (
        terms(block_weight=1.0, important_weight=1.0)["blocks"] != terms(block_weight=1.0)["blocks"]
    )


def test_settings_of_the_mask_and_the_distance_reach_their_terms(problem):
    model, variables, batch = problem

    def terms(**changes):
        settings = dataclasses.replace(FinetuningSettings(block_weight=1.0), **changes)
        return finetuning.loss_terms(model, settings, batch.params, variables, batch.images)

    default, wide = terms(), terms(important_ratio=0.5)
    assert default["attention"] != wide["attention"]
    assert default["blocks"] != wide["blocks"]
    _, out_p = model.clone(quantization=None).apply({"params": batch.params}, batch.images)
    _, out_q = model.apply(variables, batch.images)
    expected = losses.masked_attention_distillation_loss(
        out_p["attention_outputs"],
        out_q["attention_outputs"],
        model.patches,
        distance="mse",
    )
    np.testing.assert_allclose(terms(attention_distance="mse")["attention"], 10 * expected)


def test_step_sizes_have_the_gradient_scale_of_the_model(problem):
    model, variables, batch = problem

    def step_gradients(scale):
        scaled = model.clone(quantization=Quantization(3, 3, lsq_grad_scale=scale))

        def loss(trained):
            own = finetuning.with_trainable(variables, trained)
            terms = finetuning.loss_terms(
                scaled, FinetuningSettings(), batch.params, own, batch.images
            )
            return sum(terms.values())

        gradient = jax.jit(jax.grad(loss))(finetuning.trainable(variables))
        flat = traverse_util.flatten_dict(gradient["quant"])
        return np.array([value for path, value in flat.items() if path[-1] == "step"])

    np.testing.assert_allclose(step_gradients(0.1), 0.1 * step_gradients(1.0), rtol=1e-4)


def test_each_step_trains_on_views_of_its_own(problem, monkeypatch):
    model, variables, batch = problem
    settings, key, drawn = FinetuningSettings(), jax.random.key(2), []

    def view(keys, images, pixels, spec):
        assert spec == settings.view
        drawn.append(jax.random.key_data(keys))
        return 0.5 * images

    monkeypatch.setattr(finetuning, "finetuning_view", view)
    optimizer = create_optimizer(settings, 2)
    state = finetuning.init_state(optimizer, variables)
    expected = finetuning.loss_terms(model, settings, batch.params, variables, 0.5 * batch.images)
    for number in range(2):
        at_step = state.replace(step=jnp.int32(number))
        _, terms = finetuning.step(
            model, optimizer, FinetuningSpec(settings, Pixels()), at_step, batch, key
        )
        chex.assert_trees_all_close(terms, expected, rtol=1e-5)
        own = image_keys(named_key(key, "view"), batch.indices, number)
        np.testing.assert_array_equal(drawn[number], jax.random.key_data(own))
    assert (drawn[0] != drawn[1]).any()


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_without_classes_features_are_distilled_by_the_distance_chosen(problem, distance):
    model, variables, batch = problem
    headless = model.clone(num_classes=0)
    params = {name: value for name, value in batch.params.items() if name != "head"}
    quant = {name: value for name, value in variables["quant"].items() if name != "head"}
    moved = jax.tree.map(lambda weight: 1.1 * weight, params)
    settings = dataclasses.replace(FinetuningSettings(), output_distance=distance)
    terms = finetuning.loss_terms(
        headless, settings, params, {"params": moved, "quant": quant}, batch.images
    )
    features, _ = headless.clone(quantization=None).apply({"params": params}, batch.images)
    moved_features, _ = headless.apply({"params": moved, "quant": quant}, batch.images)
    if distance == "mse":
        expected = jnp.square(features - moved_features).mean()
    else:
        norms = jnp.linalg.norm(features, axis=-1) * jnp.linalg.norm(moved_features, axis=-1)
        expected = (1 - (features * moved_features).sum(axis=-1) / norms).mean()
    (term,) = (value for name, value in terms.items() if name != "attention")
    np.testing.assert_allclose(term, expected, rtol=1e-3)


def test_learning_rates_fall_along_a_cosine_to_their_ratio():
    settings = FinetuningSettings(learning_rate=1.0, quantizer_learning_rate=0.5)
    optimizer = create_optimizer(settings, num_steps=10)
    trained = {"params": jnp.zeros(()), "quant": jnp.zeros(())}
    state = optimizer.init(trained)
    gradient = {"params": jnp.ones(()), "quant": jnp.ones(())}
    zero = jax.tree.map(jnp.zeros_like, gradient)
    first, state = optimizer.update(gradient, state, trained)
    np.testing.assert_allclose([first["params"], first["quant"]], [-1.9, -0.95], rtol=1e-6)
    for _ in range(10):
        last, state = optimizer.update(zero, state, trained)
    # Momentum alone is left: 0.9^11 of the first gradient, at 1% of the rate.
    np.testing.assert_allclose(last["params"], -(0.9**11) * 0.01, rtol=1e-4)


@pytest.mark.parametrize("size", [0.004, 0.9])
def test_step_sizes_learn_in_shares_of_their_size(size):
    settings = FinetuningSettings(
        optimizer="adam", quantizer_learning_rate=0.5, step_learning_rate=0.02
    )
    optimizer = create_optimizer(settings, num_steps=10)
    quantizer = {"step": jnp.float32(size), "zero_point": jnp.float32(size)}
    trained = {"params": {"w": jnp.ones(())}, "quant": {"layer": quantizer}}
    gradient = jax.tree.map(lambda leaf: 3 * jnp.ones_like(leaf), trained)
    update, _ = optimizer.update(gradient, optimizer.init(trained), trained)
    # Adam's first update is its rate, whatever the gradient.
    np.testing.assert_allclose(update["quant"]["layer"]["step"], -0.02 * size, rtol=1e-5)
    np.testing.assert_allclose(update["quant"]["layer"]["zero_point"], -0.5, rtol=1e-5)
    np.testing.assert_allclose(update["params"]["w"], -settings.learning_rate, rtol=1e-5)


def test_weights_learn_in_shares_of_each_tensors_size():
    settings = FinetuningSettings(optimizer="adam", relative_learning_rate=0.02)
    optimizer = create_optimizer(settings, num_steps=10)
    params = {"small": jnp.array([0.03, -0.04]), "large": jnp.full(4, 50.0), "none": jnp.zeros(3)}
    trained = {"params": params, "quant": {"zero_point": jnp.float32(3)}}
    gradient = jax.tree.map(lambda leaf: 3 * jnp.ones_like(leaf), trained)
    update, _ = optimizer.update(gradient, optimizer.init(trained), trained)
    # Adam's first update is its rate, whatever the gradient.
    sizes = {"small": np.sqrt(0.00125), "large": 50, "none": 1e-3}
    for name, size in sizes.items():
        np.testing.assert_allclose(update["params"][name], -0.02 * size, rtol=1e-4)
    expected = -settings.quantizer_learning_rate
    np.testing.assert_allclose(update["quant"]["zero_point"], expected, rtol=1e-4)


def test_a_model_without_quantizers_has_no_step_sizes_to_train():
    optimizer = create_optimizer(FinetuningSettings(optimizer="adam", step_learning_rate=0.02), 10)
    trained = finetuning.trainable({"params": {"w": jnp.ones(3)}})
    update, _ = optimizer.update(trained, optimizer.init(trained), trained)
    assert update["quant"] == {}
    assert jnp.all(update["params"]["w"] < 0)


def test_the_last_step_lands_on_the_average_of_those_that_count():
    settings = FinetuningSettings(
        optimizer="adam", learning_rate=0.1, quantizer_learning_rate=0.3, averaged_share=0.3
    )
    optimizer = create_optimizer(settings, 10)
    plain = create_optimizer(dataclasses.replace(settings, averaged_share=0.0), 10)
    params = expected = {"params": {"w": jnp.ones(4)}, "quant": {"step": jnp.float32(2)}}
    state, plain_state = optimizer.init(params), plain.init(params)
    results = []
    for number in range(10):
        gradient = jax.tree.map(lambda leaf, n=number: jnp.cos(leaf + n), expected)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        updates, plain_state = plain.update(gradient, plain_state, expected)
        expected = optax.apply_updates(expected, updates)
        results.append(expected)
        if number < 9:
            chex.assert_trees_all_equal(params, expected)
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 3, *results[-3:])
    chex.assert_trees_all_close(params, mean, rtol=1e-6)


def test_a_run_of_training_ends_on_the_average_of_its_last_steps(problem):
    model, variables, batch = problem
    images = np.asarray(batch.images)

    def train(averaged_share):
        settings = FinetuningSettings(
            epochs=2, batch_size=4, optimizer="adam", averaged_share=averaged_share, view=STILL
        )
        loop = FinetuningLoop(
            *(model, FinetuningSpec(settings, Pixels()), len(images), jax.random.key(2)),
            parallel.make_mesh(jax.devices()[:1]),
        )
        state = loop.init_state(variables)
        trained = loop.run(state, range(4), images.__getitem__, batch.params)
        return [jax.tree.map(np.asarray, step.state.variables["params"]) for step in trained]

    averaged, plain = train(0.5), train(0.0)
    chex.assert_trees_all_equal(averaged[:3], plain[:3])
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 2, *plain[2:])
    chex.assert_trees_all_close(averaged[3], mean, rtol=1e-5, atol=1e-7)
