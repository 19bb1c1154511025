"""What every loss promises, and where its value is known without a formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from maskaq_jax import losses
from maskaq_jax.devices import parallel
from maskaq_jax.devices.global_batch import GlobalBatch
from tests.losses.examples import (
    KEYS,
    LOGITS_P,
    LOGITS_Q,
    MASK,
    OUTPUTS_P,
    OUTPUTS_Q,
    TOKENS_P,
    TOKENS_Q,
)

# As TOKENS_P, but for one image whose tokens are nearly alike.
TOKENS_OF_A_BLANK = TOKENS_P.at[:, 3].multiply(1e-3)
IMAGES = jax.random.normal(KEYS[4], (8, 6, 5, 3))
CLASSES = jax.random.normal(KEYS[5], (8, 7))
LABELS = jnp.arange(8) % 7
# Of ten detection tokens: logits of four classes and of none, and what becomes a box.
FOUND = jax.random.normal(KEYS[0], (8, 10, 9))
OBJECTS = losses.Objects(
    classes=jnp.arange(16).reshape(8, 2) % 4,
    boxes=jax.random.uniform(KEYS[1], (8, 2, 4), minval=0.2, maxval=0.6),
    tokens=jnp.stack([jnp.arange(8) % 5, 5 + jnp.arange(8) % 3], axis=1),
)
PIXELS = jax.random.normal(KEYS[2], (8, 4, 5, 3))
LABEL_MAPS = jax.random.randint(KEYS[3], (8, 4, 5), 0, 3)

# name: (function of (x, *constants, **options), x, constants with a batch axis, that axis)
LAYERS = PartitionSpec(None, "data")
BATCH = PartitionSpec("data")


def _distillation(distance):
    def loss(x, target, **options):
        return losses.masked_attention_distillation_loss(target, x, distance=distance, **options)

    return loss, OUTPUTS_Q, (OUTPUTS_P,), (LAYERS, LAYERS)


def _blocks(target):
    def loss(x, target, **options):
        return losses.masked_block_distillation_loss(target, x, **options)

    return loss, TOKENS_Q, (target,), (LAYERS, LAYERS)


CONTRACT = {
    "class": (losses.class_loss, CLASSES, (LABELS,), (BATCH, BATCH)),
    "inter_head_similarity": (losses.inter_head_similarity_loss, LOGITS_P, (), (LAYERS,)),
    "patch_similarity_entropy": (losses.patch_similarity_entropy_loss, LOGITS_P, (), (LAYERS,)),
    "sampled_entropy": (
        functools.partial(losses.patch_similarity_entropy_loss, key=KEYS[7], max_patches=5),
        LOGITS_P,
        (),
        (LAYERS,),
    ),
    "patch_similarity_density": (
        functools.partial(losses.patch_similarity_density_loss, bandwidth=0.1),
        OUTPUTS_P,
        (),
        (LAYERS,),
    ),
    "masked_attention": (
        lambda x, p, mask, **options: losses.masked_attention_loss(p, x, mask, **options),
        LOGITS_Q,
        (LOGITS_P, MASK),
        (LAYERS, LAYERS, BATCH),
    ),
    "total_variation": (losses.total_variation_loss, IMAGES, (), (BATCH,)),
    "distillation": (
        functools.partial(losses.distillation_loss, temperature=5.0),
        CLASSES,
        (CLASSES[::-1],),
        (BATCH, BATCH),
    ),
    "feature_distillation": (
        losses.feature_distillation_loss,
        CLASSES,
        (CLASSES[::-1],),
        (BATCH, BATCH),
    ),
    "objects": (
        lambda x, classes, boxes, tokens, **options: losses.objects_loss(
            {"logits": x[..., :-4], "pred_boxes": jax.nn.sigmoid(x[..., -4:])},
            losses.Objects(classes, boxes, tokens),
            0.3,
            **options,
        ),
        FOUND,
        (OBJECTS.classes, OBJECTS.boxes, OBJECTS.tokens),
        (BATCH,) * 4,
    ),
    "label_map": (
        functools.partial(losses.label_map_loss, progress=0.3),
        PIXELS,
        (LABEL_MAPS,),
        (BATCH, BATCH),
    ),
    "detection_distillation": (
        lambda x, y, **options: losses.detection_distillation_loss(
            *(
                {"logits": found[..., :-4], "pred_boxes": jax.nn.sigmoid(found[..., -4:])}
                for found in (x, y)
            ),
            temperature=2.0,
            **options,
        ),
        FOUND,
        (FOUND[::-1],),
        (BATCH, BATCH),
    ),
    "segmentation_distillation": (
        functools.partial(losses.segmentation_distillation_loss, temperature=2.0),
        PIXELS,
        (PIXELS[::-1],),
        (BATCH, BATCH),
    ),
    "map_distillation": (
        lambda x, y, **options: losses.map_distillation_loss([x], [y], **options),
        PIXELS,
        (PIXELS[::-1],),
        (BATCH, BATCH),
    ),
    "block_distillation": _blocks(TOKENS_P),
    "block_distillation_of_a_blank": _blocks(TOKENS_OF_A_BLANK),
} | {f"attention_distillation_{name}": _distillation(name) for name in ("ssim", "mse", "l1", "kl")}


@pytest.mark.parametrize("name", CONTRACT)
def test_every_loss_keeps_the_contract(name):
    loss, x, constants, specs = CONTRACT[name]
    value, gradient = jax.value_and_grad(loss)(x, *constants)
    assert value.shape == ()
    assert value.dtype == jnp.float32
    assert np.isfinite(gradient).all()
    assert gradient.any()

    jitted, jitted_gradient = jax.jit(jax.value_and_grad(loss))(x, *constants)
    np.testing.assert_allclose(jitted, value, rtol=1e-5)
    np.testing.assert_allclose(jitted_gradient, gradient, atol=1e-5)

    mesh = parallel.make_mesh()
    assert mesh.size == 4

    over = GlobalBatch(parallel.AXIS)

    def on_device(x, *constants):
        value, gradient = jax.value_and_grad(lambda x: loss(x, *constants, over=over))(x)
        return value, gradient / jax.lax.axis_size("data")

    mapped = parallel.map_over_devices(on_device, mesh, specs, (PartitionSpec(), specs[0]))
    four, four_gradient = mapped(x, *constants)
    # Sums in another order: float32's rounding, amplified where a term is divided by its norm.
    np.testing.assert_allclose(four, value, rtol=2e-5)
    np.testing.assert_allclose(four_gradient, gradient, atol=1e-5)


@pytest.mark.parametrize("name", CONTRACT)
def test_images_that_are_padding_do_not_count(name):
    loss, x, constants, specs = CONTRACT[name]
    kept = [
        array[:, :6] if spec == LAYERS else array[:6]
        for array, spec in zip((x, *constants), specs, strict=True)
    ]
    over = GlobalBatch(valid=jnp.arange(8) < 6)
    value, gradient = jax.value_and_grad(loss)(x, *constants, over=over)
    expected, expected_gradient = jax.value_and_grad(loss)(*kept)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    padded = [(0, 2 if size == 8 else 0) for size in x.shape]
    np.testing.assert_allclose(gradient, np.pad(expected_gradient, padded), atol=1e-5)


@pytest.mark.parametrize("distance", ["mse", "l1", "kl", "ssim"])
def test_equal_outputs_have_no_distance(distance):
    loss, _, _, _ = _distillation(distance)
    # SSIM's denominator alone has an extra 1e-6.
    np.testing.assert_allclose(loss(OUTPUTS_P, OUTPUTS_P), 0, atol=1e-5)


def test_equal_blocks_have_no_distance():
    assert losses.masked_block_distillation_loss(TOKENS_P, TOKENS_P) == 0


def test_blocks_of_nothing_but_blanks_have_finite_slopes():
    blank = jnp.ones_like(TOKENS_P)
    value, gradient = jax.value_and_grad(losses.masked_block_distillation_loss, 1)(blank, TOKENS_Q)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_equal_attention_has_no_coupling():
    assert losses.masked_attention_loss(LOGITS_P, LOGITS_P, MASK) == 0


def test_equal_logits_have_no_divergence():
    np.testing.assert_allclose(losses.distillation_loss(CLASSES, CLASSES, 5.0), 0, atol=1e-6)


def test_where_q_is_p_nothing_pulls_at_it():
    coupling = jax.grad(losses.masked_attention_loss, 1)(LOGITS_P, LOGITS_P, MASK)
    loss = functools.partial(losses.masked_attention_distillation_loss, distance="l1")
    assert not coupling.any()
    assert not jax.grad(loss, 1)(OUTPUTS_P, OUTPUTS_P).any()


def test_more_patches_than_the_limit_need_a_key():
    with pytest.raises(ValueError, match="a key is needed"):
        losses.patch_similarity_entropy_loss(LOGITS_P, max_patches=5)


def test_total_variation_of_a_constant_image_is_zero_with_zero_gradient():
    value, gradient = jax.value_and_grad(losses.total_variation_loss)(jnp.ones((2, 4, 4, 3)))
    assert value == 0
    assert not gradient.any()


def test_unknown_distance_is_named():
    with pytest.raises(ValueError, match="ssim, mse, l1, kl, got 'cosine'"):
        losses.masked_attention_distillation_loss(OUTPUTS_P, OUTPUTS_Q, distance="cosine")
    with pytest.raises(ValueError, match="cosine or mse, got 'l1'"):
        losses.feature_distillation_loss(jnp.ones((2, 3)), jnp.ones((2, 3)), "l1")


def _value_and_gradient(loss, x):
    return jax.jit(jax.value_and_grad(loss))(x)


@pytest.mark.parametrize("level", [0.0, 5.3])
def test_rows_of_one_value_are_similar_whatever_their_mean_rounds_to(level):
    value, gradient = _value_and_gradient(
        losses.inter_head_similarity_loss, jnp.full((1, 2, 3, 50, 50), level)
    )
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_attention_of_equal_rows_has_finite_entropy():
    value, gradient = _value_and_gradient(
        losses.patch_similarity_entropy_loss, jnp.ones((1, 2, 3, 6, 6))
    )
    np.testing.assert_allclose(value, -0.5 * np.log(2 * np.pi * np.e * 1e-8), rtol=1e-4)
    assert np.isfinite(gradient).all()


def _one_row_of_zeros():
    logits = jax.random.normal(jax.random.key(0), (1, 2, 3, 6, 6))
    return logits.at[0, 0, :, 2].set(0)


def test_a_row_of_zeros_has_finite_entropy():
    assert np.isfinite(losses.patch_similarity_entropy_loss(_one_row_of_zeros()))


def test_a_row_of_zeros_has_a_finite_slope():
    _, gradient = _value_and_gradient(losses.patch_similarity_entropy_loss, _one_row_of_zeros())
    assert np.isfinite(gradient).all()


def _half(*shape):
    return jax.random.normal(jax.random.key(0), shape).astype(jnp.bfloat16)


HALF_LOGITS, HALF_OUTPUTS, HALF_CLASSES = _half(1, 2, 3, 6, 6), _half(1, 2, 3, 6, 4), _half(3, 5)


@pytest.mark.parametrize(
    "loss",
    [
        lambda: losses.class_loss(HALF_CLASSES, jnp.arange(3)),
        lambda: losses.inter_head_similarity_loss(HALF_LOGITS),
        lambda: losses.patch_similarity_entropy_loss(HALF_LOGITS),
        lambda: losses.masked_attention_loss(HALF_LOGITS, HALF_LOGITS, jnp.ones((2, 5))),
        lambda: losses.total_variation_loss(_half(2, 4, 4, 3)),
        lambda: losses.distillation_loss(HALF_CLASSES, HALF_CLASSES, 5.0),
        lambda: losses.masked_attention_distillation_loss(HALF_OUTPUTS, HALF_OUTPUTS),
        lambda: losses.masked_block_distillation_loss(HALF_OUTPUTS[0], HALF_OUTPUTS[0]),
    ],
    ids=["class", "similarity", "entropy", "coupling", "variation", "kd", "attention", "blocks"],
)
def test_losses_of_half_precision_arrays_are_float32(loss):
    assert jax.eval_shape(loss).dtype == jnp.float32


def test_channels_without_any_signal_are_slightly_apart():
    zeros = jnp.zeros((1, 2, 3, 6, 4))
    # docs/method.md section 3 adds 1e-6 to SSIM's denominator alone.
    value = losses.masked_attention_distillation_loss(zeros, zeros)
    np.testing.assert_allclose(value, 1 - 9e-4 / (9e-4 + 1e-6), rtol=1e-3)


def test_weights_of_zero_count_all_patches_alike():
    p, q = HALF_OUTPUTS.astype(jnp.float32), 1 + HALF_OUTPUTS.astype(jnp.float32)
    value = losses.masked_attention_distillation_loss(p, q, high=0.0, low=0.0, distance="l1")
    np.testing.assert_allclose(value, 1, rtol=1e-5)


def test_layers_that_have_no_partner_are_not_left_out():
    with pytest.raises(ValueError, match="logits_p and logits_q must have layers of the same"):
        losses.masked_attention_loss(tuple(LOGITS_P), tuple(LOGITS_Q)[:1], MASK)
    with pytest.raises(ValueError, match="mask must be one a layer, got 1 for 2 layers"):
        losses.masked_attention_loss(tuple(LOGITS_P), tuple(LOGITS_Q), [MASK])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: losses.class_loss(CLASSES[0], LABELS),
            r"logits must be \[batch, classes\], got shape \(7,\)",
        ),
        (
            lambda: losses.class_loss(CLASSES, LABELS.astype(float)),
            "labels must have integer dtype, got float32",
        ),
        (
            lambda: losses.class_loss(CLASSES, LABELS[:3]),
            "labels must be one an image, got 3 for 8 images",
        ),
        (
            lambda: losses.inter_head_similarity_loss(OUTPUTS_P),
            r"logits must be \[layers, batch, heads, tokens, tokens\], got shape",
        ),
        (
            lambda: losses.patch_similarity_entropy_loss([LOGITS_P]),
            r"logits\[0\] must be \[batch, heads, tokens, tokens\], got shape",
        ),
        (
            lambda: losses.patch_similarity_entropy_loss([]),
            "logits must have at least one layer",
        ),
        (
            lambda: losses.patch_similarity_density_loss(TOKENS_P),
            r"outputs must be \[layers, batch, heads, tokens, channels\]",
        ),
        (
            lambda: losses.masked_attention_loss(LOGITS_P, LOGITS_Q[:, :4], MASK),
            "logits_p and logits_q must have layers of the same shapes",
        ),
        (
            lambda: losses.masked_attention_loss(LOGITS_P, LOGITS_Q, MASK[:, :5]),
            r"a mask of shape \(8, 5\) can't mark \(8, 9\) patches",
        ),
        (
            lambda: losses.total_variation_loss(IMAGES[0]),
            r"images must be \[batch, height, width, channels\], got shape \(6, 5, 3\)",
        ),
        (
            lambda: losses.variation_gap_loss(jnp.ones((1, 4, 4, 3), jnp.uint8), 0.0),
            "images must have floating dtype, got uint8",
        ),
        (
            lambda: losses.distillation_loss(CLASSES, CLASSES[:, :5], 5.0),
            r"_logits must have the same shape, got \(8, 7\) and \(8, 5\)",
        ),
        (
            lambda: losses.feature_distillation_loss(CLASSES, CLASSES[:2]),
            "student and teacher must have the same shape",
        ),
        (
            lambda: losses.masked_attention_distillation_loss(OUTPUTS_P, OUTPUTS_Q[..., :2]),
            "outputs_p and outputs_q must have layers of the same shapes",
        ),
        (
            lambda: losses.masked_block_distillation_loss(OUTPUTS_P, OUTPUTS_Q),
            r"blocks_p must be \[layers, batch, tokens, channels\], got shape",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
