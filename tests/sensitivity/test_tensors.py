"""Each tensor's loss is that of a model in which nothing else is rounded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import calibration, sensitivity
from maskaq_jax.calibration import CalibrationSettings
from maskaq_jax.models import Quantization, create_model, full_precision, layer_names

SIZES = {
    "vit": {
        **{"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2},
        "init_values": 1.0,
    },
    "deit_distilled": {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2},
    "swin": {
        **{"img_size": 16, "patch_size": 2, "embed_dim": 8, "depths": (1, 1)},
        **{"num_heads": (2, 2), "window_size": 4},
    },
}
PAPER = CalibrationSettings()
FITTED = CalibrationSettings(ranges="least_squares", num_searched=64)
KEY = jax.random.key(5)


def _problem(name, weight_bits, activation_bits, num_classes=5, **quantization):
    model = create_model(
        name,
        num_classes,
        Quantization(weight_bits, activation_bits, **quantization),
        **SIZES[name],
    )
    images = jax.random.normal(jax.random.key(0), (12, *model.input_shape))
    params = jax.jit(full_precision(model).init)(jax.random.key(1), images)["params"]
    # Classes far enough apart that rounding tells.
    return model, jax.tree.map(lambda leaf: 3 * leaf, params), images


@functools.cache
def _measured(name):
    """A model of which all is rounded, and what each tensor loses."""
    model, params, images = _problem(name, 3, 4)
    told = []
    losses = sensitivity.measure(
        model, params, images, PAPER, KEY, on_tensor=lambda: told.append(1)
    )
    return model, params, images, losses, len(told)


def _divergence(outputs_p, outputs):
    log_p, log_q = jax.nn.log_softmax(outputs_p), jax.nn.log_softmax(outputs)
    return float((jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vit", "blocks_1.mlp.fc2"),
        ("vit", "blocks_0.attn.probabilities"),
        ("vit", "patch_embed.proj"),
        pytest.param("swin", "layers_1.downsample.reduction", marks=pytest.mark.slow),
        pytest.param("swin", "head.fc", marks=pytest.mark.slow),
    ],
)
def test_a_tensor_s_loss_is_that_of_the_model_with_a_rule_for_it_alone(name, layer):
    model, params, images, losses, _ = _measured(name)
    seen, measured = images[:6], images[6:]
    outputs_p, _ = jax.jit(full_precision(model).apply)({"params": params}, measured)
    found = {loss.tensor: loss for loss in losses if loss.layer == layer}
    assert found
    for tensor, loss in found.items():
        bits = "3x32" if tensor == "weight" else "32x4"
        rounded = Quantization(32, 32, rules=f"{layer}={bits}")
        alone = create_model(name, 5, rounded, **SIZES[name])
        quant = calibration.calibrate(alone, params, seen)
        outputs, _ = jax.jit(alone.apply)({"params": params, "quant": quant}, measured)
        expected = _divergence(outputs_p, outputs)
        assert expected > 1e-4
        assert loss.divergence == pytest.approx(expected, rel=1e-2)
        same = np.mean(outputs_p.argmax(axis=-1) == outputs.argmax(axis=-1))
        assert loss.agreement == pytest.approx(100 * same)


@pytest.mark.parametrize("name", SIZES)
def test_every_tensor_that_is_rounded_is_measured_and_the_worst_come_first(name):
    model, _, _, losses, num_told = _measured(name)
    names = layer_names(model)
    activations = {loss.layer for loss in losses if loss.tensor == "activation"}
    weights = {loss.layer for loss in losses if loss.tensor == "weight"}
    assert activations == set(names) - {"patch_embed.proj"}
    operands = ("query", "key", "value", "probabilities")
    assert weights == {name for name in names if not name.endswith(operands)}
    assert num_told == len(losses) == len(weights) + len(activations)
    divergences = [loss.divergence for loss in losses]
    assert divergences == sorted(divergences, reverse=True)


def test_tensors_in_float_are_left_out_and_rules_hold():
    rules = "*.fc2=32x8,head=32x32"
    model, params, images = _problem("vit", 32, 4, rules=rules)
    losses = sensitivity.measure(model, params, images, PAPER, KEY)
    assert {loss.tensor for loss in losses} == {"activation"}
    assert "head" not in {loss.layer for loss in losses}
    for loss in losses:
        assert loss.bits == (8 if loss.layer.endswith("fc2") else 4)


@pytest.mark.slow
def test_fitted_layers_lose_less_at_more_bits():
    few, params, images = _problem("deit_distilled", 2, 2, keeps_grids=True)
    many = few.clone(quantization=Quantization(8, 8, keeps_grids=True))
    at_few, at_many = (
        sensitivity.measure(model, params, images, FITTED, KEY) for model in (few, many)
    )
    assert len(at_few) == len(at_many)
    total_at_few, total_at_many = (
        sum(loss.divergence for loss in losses) for losses in (at_few, at_many)
    )
    assert total_at_many < 0.1 * total_at_few


def test_features_are_compared_where_there_are_no_classes():
    model, params, images = _problem("vit", 32, 4, num_classes=0)
    losses = sensitivity.measure(model, params, images, PAPER, KEY)
    assert {loss.agreement for loss in losses} == {None}
    assert 0 < losses[0].divergence < 1


def test_one_image_is_too_few():
    model, params, images = _problem("vit", 4, 4)
    with pytest.raises(ValueError, match="two images are needed, to calibrate and to measure"):
        sensitivity.measure(model, params, images[:1], PAPER, KEY)
