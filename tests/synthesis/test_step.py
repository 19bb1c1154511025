import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import calibration, losses, torch_import
from maskaq_jax.devices.keys import image_keys
from maskaq_jax.finetuning import step as finetuning
from maskaq_jax.finetuning.optimizer import create_optimizer
from maskaq_jax.finetuning.step import FinetuningBatch, FinetuningSettings, FinetuningSpec
from maskaq_jax.images import backgrounds, noise
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.images.views import SynthesisView
from maskaq_jax.models import Quantization, create_model
from maskaq_jax.synthesis import first_images
from maskaq_jax.synthesis import step as synthesis
from maskaq_jax.synthesis import terms as synthesis_terms
from maskaq_jax.synthesis.step import SynthesisSettings, SynthesisSpec
from maskaq_jax.synthesis.terms import LossWeights, SynthesisBatch

TINY = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}
SETTINGS = SynthesisSettings(num_steps=6, balanced_labels=True)
PIXELS = Pixels(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
# Of the steps.
KEY = jax.random.key(2)


def _terms(model, settings, batch, images):
    """All terms, of images that are their own views."""
    key = jax.random.key(0)
    weights, drop_rate = settings.weights, settings.drop_rate
    return synthesis_terms.model_terms(
        *(model, weights, batch, images, 0.3, drop_rate, key),
        progress=0.0,
        target_keys=image_keys(key, batch.indices),
    ) | synthesis_terms.image_terms(weights, images)


@pytest.mark.parametrize("bits", [3, 4])
def test_terms_and_image_gradient_agree_with_the_reference(golden, close, bits):
    arrays = golden("vit")
    arguments = {name: value for name, value in arrays.arguments.items() if name != "arch"}
    model = create_model("vit", quantization=Quantization(bits, bits), **arguments)
    params = torch_import.load_torch_weights(arrays.weights, model)
    variables = {
        "params": params,
        "quant": calibration.calibrate(model, params, arrays["images"]),
    }
    labels = jnp.asarray(arrays["labels"], jnp.int32)
    batch = SynthesisBatch(jnp.arange(len(labels)), labels, params, variables)
    settings = SynthesisSettings(drop_rate=0.0)

    def loss(images):
        terms = _terms(model, settings, batch, images)
        return sum(terms.values()), terms

    (total, terms), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        jnp.asarray(arrays["images2"])
    )
    weights = settings.weights
    unweighted = [
        terms["similarity"] / weights.similarity,
        terms["classes"] / weights.classes,
        terms["total_variation"] / weights.total_variation,
        terms["coupling"] / weights.coupling,
        terms["entropy"] / weights.entropy,
        total,
    ]
    for value, expected in zip(unweighted, arrays[f"synthesis_terms_q{bits}"], strict=True):
        close(value, expected)
    close(gradient, arrays[f"synthesis_grad_q{bits}"], 1e-3)


@pytest.fixture(scope="module")
def problem():
    model = create_model("vit", 4, Quantization(3, 3), **TINY)
    indices = jnp.arange(4, dtype=jnp.int32)
    images = noise.draw_noise(jax.random.key(0), indices, (8, 8, 3), PIXELS)
    init = jax.jit(model.clone(quantization=None).init)
    params = init(jax.random.key(1), images)["params"]
    variables = {"params": params, "quant": calibration.calibrate(model, params, images)}
    return model, SynthesisBatch(indices, indices % 4, params, variables), images


def _take_steps(problem, settings, pixels=PIXELS, num_steps=1):
    model, batch, images = problem
    optimizer = synthesis.create_optimizer(settings)
    state = synthesis.init_state(optimizer, images)
    return jax.jit(synthesis.synthesize, static_argnums=(0, 1, 2))(
        model, optimizer, SynthesisSpec(settings, pixels), state, batch, KEY, num_steps
    )


def test_the_loop_takes_the_steps_one_by_one(problem):
    model, batch, images = problem
    optimizer, spec = synthesis.create_optimizer(SETTINGS), SynthesisSpec(SETTINGS, PIXELS)
    step = jax.jit(synthesis.step, static_argnums=(0, 1, 2))
    state = synthesis.init_state(optimizer, images)
    for _ in range(3):
        state, terms = step(model, optimizer, spec, state, batch, KEY)
    looped, looped_terms = _take_steps(problem, SETTINGS, num_steps=3)
    assert looped.step == 3
    # Adam's first steps divide by almost nothing: they amplify the order of a sum.
    np.testing.assert_allclose(looped.images, state.images, atol=1e-3)
    np.testing.assert_allclose(looped_terms["classes"], terms["classes"], rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("vit", {"dtype": "bfloat16"}), ("vit", {"in_chans": 1}), ("deit_distilled", {})],
)
def test_other_precisions_channels_and_heads_take_steps(name, changes):
    model = create_model(name, 4, Quantization(3, 3), **(TINY | changes))
    indices, pixels = jnp.arange(4, dtype=jnp.int32), Pixels(*[(0.5,) * model.in_chans] * 2)
    images = noise.draw_noise(jax.random.key(0), indices, model.input_shape, pixels)
    params = jax.jit(model.clone(quantization=None).init)(jax.random.key(1), images)["params"]
    variables = {"params": params, "quant": calibration.calibrate(model, params, images)}
    batch = SynthesisBatch(indices, indices % 4, params, variables)
    state, terms = _take_steps((model, batch, images), SETTINGS, pixels, num_steps=2)
    assert all(np.isfinite(term) and term.dtype == np.float32 for term in terms.values())
    assert not np.allclose(state.images, images)

    spec = FinetuningSpec(FinetuningSettings(block_weight=1.0), pixels)
    optimizer = create_optimizer(spec.settings, 2)
    trained, terms = jax.jit(finetuning.step, static_argnums=(0, 1, 2))(
        *(model, optimizer, spec, finetuning.init_state(optimizer, variables)),
        *(FinetuningBatch(indices, images, params), jax.random.key(2)),
    )
    assert all(np.isfinite(term) and term.dtype == np.float32 for term in terms.values())
    assert jax.tree.all(jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), trained.variables))


def test_images_learn_by_adamw_on_a_cosine():
    settings = SynthesisSettings(num_steps=10)
    optimizer = synthesis.create_optimizer(settings)
    images, ones = jnp.zeros(3), jnp.ones(3)
    state = optimizer.init(images)
    updates = []
    for _ in range(11):
        update, state = optimizer.update(ones, state, images)
        updates.append(float(update[0]))
    # Adam's updates by a constant gradient are its rate.
    for number, rate in ((0, 0.1), (5, (0.1 + 0.001) / 2), (10, 0.001)):
        np.testing.assert_allclose(updates[number], -rate, rtol=1e-4)

    _, state = optimizer.update(ones, optimizer.init(images), images)
    update, _ = optimizer.update(0 * ones, state, images)
    # Means of the gradient and its square, 0.9 and 0.999 of those before, without their bias.
    mean, square = 0.9 * 0.1 / (1 - 0.9**2), 0.999 * 0.001 / (1 - 0.999**2)
    rate = 0.001 + 0.099 * (1 + np.cos(np.pi / 10)) / 2
    np.testing.assert_allclose(update, -rate * mean / np.sqrt(square), rtol=1e-4)

    update, _ = optimizer.update(0 * ones, optimizer.init(ones), 10 * ones)
    np.testing.assert_allclose(update, -0.1 * 1e-6 * 10, rtol=1e-4)


def test_updates_are_blurred_less_and_less(problem, monkeypatch):
    model, batch, images = problem
    settings = SynthesisSettings(num_steps=10, smoothness=0.2, smoothness_spread=0.5)
    blurred = []

    def blur(images, smoothness):
        blurred.append(smoothness)
        return images

    monkeypatch.setattr(noise, "blur", blur)
    optimizer = synthesis.create_optimizer(settings)
    state = synthesis.init_state(optimizer, images)
    for number in (0, 4):
        synthesis.step(
            *(model, optimizer, SynthesisSpec(settings, PIXELS)),
            *(state.replace(step=jnp.int32(number)), batch, KEY),
        )
    own = noise.draw_smoothness(KEY, batch.indices, 0.2, 0.5)
    np.testing.assert_allclose(blurred, [own, 0.6 * own], rtol=1e-6)


def test_images_become_what_their_labels_say(problem):
    settings = SynthesisSettings(
        num_steps=60,
        view=SynthesisView(0.0, 0.0, 0.0),
        weights=LossWeights(similarity=0, entropy=0, coupling=0, total_variation=0),
    )
    _, before = _take_steps(problem, settings)
    _, after = _take_steps(problem, settings, num_steps=60)
    assert after["classes"] < 0.5 * before["classes"]


def test_images_stay_within_real_pixels(problem):
    state, _ = _take_steps(problem, SETTINGS, num_steps=6)
    pixels = np.asarray(state.images) * np.asarray(PIXELS.std) + np.asarray(PIXELS.mean)
    assert pixels.min() > -1e-6
    assert pixels.max() < 1 + 1e-6


def test_grey_images_stay_grey(problem):
    model, batch, images = problem
    grey = images.mean(axis=-1, keepdims=True) * jnp.ones((1, 1, 1, 3))
    state, _ = _take_steps((model, batch, grey), SETTINGS, Pixels(grey=True), num_steps=6)
    np.testing.assert_allclose(state.images[..., 0], state.images[..., 2], atol=1e-6)


@pytest.mark.parametrize("left_out", LossWeights.__dataclass_fields__)
def test_a_term_without_weight_is_not_computed(problem, left_out):
    model, batch, images = problem
    weights = dict.fromkeys(LossWeights.__dataclass_fields__, 1.0)
    settings = SynthesisSettings(weights=LossWeights(**weights | {left_out: 0.0}))
    terms = jax.eval_shape(lambda images: _terms(model, settings, batch, images), images)
    assert set(terms) == set(LossWeights.__dataclass_fields__) - {left_out}


def test_draws_of_an_image_depend_on_its_number_alone():
    few, many = jnp.array([5, 2]), jnp.arange(8)
    key, shape = jax.random.key(0), (4, 4, 3)
    for draw in (
        lambda indices: noise.draw_noise(key, indices, shape, PIXELS),
        lambda indices: first_images.draw_labels(key, indices, 10, SynthesisSettings()),
        lambda indices: backgrounds.draw_boxes(key, indices, 8, 8),
    ):
        drawn = np.asarray(draw(many))
        np.testing.assert_array_equal(draw(few), drawn[few])
        assert len(np.unique(drawn, axis=0)) > 1


def test_labels_are_drawn_from_all_classes():
    labels = first_images.draw_labels(jax.random.key(0), jnp.arange(2000), 10, SynthesisSettings())
    counts = np.bincount(labels, minlength=10)
    assert len(counts) == 10
    assert 140 < counts.min() <= counts.max() < 260


def test_balanced_labels_take_turns():
    settings = SynthesisSettings(balanced_labels=True)
    labels = first_images.draw_labels(jax.random.key(0), jnp.arange(7), 3, settings)
    np.testing.assert_array_equal(labels, [0, 1, 2, 0, 1, 2, 0])


def test_first_images_are_smooth_and_keep_their_contrast():
    pixels = Pixels(mean=(0.5,) * 3, std=(0.25,) * 3)

    def draw(**settings):
        spec = SynthesisSpec(SynthesisSettings(**settings), pixels)
        images = first_images.draw_images(jax.random.key(0), jnp.arange(4), (8, 8, 3), spec)
        roughness = jnp.abs(jnp.diff(images, axis=1)).mean() / images.std()
        return images.std(axis=(1, 2, 3)), roughness

    (plain, roughness), (faint, smooth), (rich, still_smooth) = (
        draw(),
        draw(smoothness=0.2),
        draw(smoothness=0.2, contrast=1.0),
    )
    np.testing.assert_allclose(plain, 1, atol=0.2)
    assert faint.max() < 0.5
    np.testing.assert_allclose(rich, 1, rtol=1e-5)
    assert max(smooth, still_smooth) < 0.5 * roughness


def test_only_the_box_in_front_of_a_background_is_made(problem):
    model, batch, images = problem
    settings = SynthesisSettings(num_steps=6, background="black")
    first = first_images.draw_images(
        KEY, batch.indices, images.shape[1:], SynthesisSpec(settings, PIXELS)
    )
    state, _ = _take_steps((model, batch, first), settings, num_steps=6)
    boxes = backgrounds.draw_boxes(KEY, batch.indices, *first.shape[1:3])
    boxes = np.broadcast_to(boxes, first.shape)
    plain = np.broadcast_to(PIXELS.bounds()[0], first.shape)
    for images in (first, state.images):
        np.testing.assert_array_equal(images[~boxes], plain[~boxes])
    assert (state.images[boxes] != first[boxes]).mean() > 0.9


def test_smooth_synthesis_makes_smoother_images(problem):
    def roughness(smoothness):
        settings = SynthesisSettings(num_steps=6, smoothness=smoothness)
        images = _take_steps(problem, settings, num_steps=6)[0].images - problem[2]
        return float(jnp.abs(jnp.diff(images, axis=1)).mean())

    assert roughness(0.2) < 0.5 * roughness(0.0)


def test_the_roughness_of_psaq_is_a_target_of_the_batch(problem):
    _, batch, _ = problem
    images = jnp.zeros((32, 224, 224, 3))
    batch = batch.replace(valid=None)
    targets = [
        float(synthesis_terms.draw_variation_target(jax.random.key(seed), batch, images))
        for seed in range(50)
    ]
    assert 2500 <= min(targets) < 2600
    assert 2900 < max(targets) <= 3000
    small = synthesis_terms.draw_variation_target(jax.random.key(0), batch, images[:8, ::2, ::2])
    np.testing.assert_allclose(small, targets[0] / 4, rtol=1e-6)
    other = batch.replace(indices=batch.indices + 100)
    assert synthesis_terms.draw_variation_target(jax.random.key(0), other, images) != targets[0]


def test_psaq_pulls_the_roughness_to_its_target(problem):
    _, _, images = problem
    settings = SynthesisSettings(
        weights=LossWeights(0.0, 0.0, 0.0, 0.0, 0.0, density=0.0, variation_gap=2.0)
    )

    def loss(images, target):
        terms = synthesis_terms.image_terms(settings.weights, images, target)
        return terms["variation_gap"]

    roughness = losses.total_variation_loss(images, diagonal_weight=1.0)
    above, below = (jax.grad(loss)(images, roughness + gap) for gap in (-1.0, 1.0))
    np.testing.assert_allclose(loss(images, roughness - 1.0), 2.0, rtol=1e-4)
    np.testing.assert_allclose(above, -below, atol=1e-6)
    assert np.abs(above).max() > 0


def test_a_step_of_psaq_pulls_to_the_target_drawn_for_it(problem):
    _, batch, images = problem
    settings = SynthesisSettings(weights=LossWeights(0.0, 0.0, 0.0, 0.0, 0.0, variation_gap=1.0))
    _, terms = _take_steps(problem, settings)
    roughness = losses.total_variation_loss(images, diagonal_weight=1.0)
    target = synthesis_terms.draw_variation_target(KEY, batch, images)
    np.testing.assert_allclose(terms["variation_gap"], abs(roughness - target), rtol=1e-4)


def test_terms_of_images_are_listed():
    """What asks nothing of a model alone is refused by this list."""
    every = LossWeights(density=1.0, variation_gap=1.0)
    terms = synthesis_terms.image_terms(every, jnp.zeros((2, 8, 8, 3)), 2500.0)
    assert terms.keys() == set(synthesis_terms.IMAGE_TERMS)
