"""Layers have the bits that rules give them, and nothing else has."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import calibration, quantizers
from maskaq_jax.finetuning import step as finetuning
from maskaq_jax.models import Quantization, create_model, full_precision, layer_names, rules

SIZES = {
    "vit": {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2},
    "deit_distilled": {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2},
    "swin": {
        **{"img_size": 16, "patch_size": 2, "embed_dim": 8, "depths": (2, 1)},
        **{"num_heads": (2, 2), "window_size": 4},
    },
    "yolos": {
        **{"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2},
        **{"num_detection_tokens": 3},
    },
    "upernet_swin": {
        **{"img_size": 12, "patch_size": 2, "embed_dim": 8, "depths": (1, 1)},
        **{"num_heads": (2, 2), "window_size": 4, "hidden_size": 8},
    },
}
# UperNet has many layers, each of which takes a trace.
MODELS = [pytest.param(name, marks=[pytest.mark.slow] * (name == "upernet_swin")) for name in SIZES]
NAMES = ("patch_embed.proj", "blocks_0.attn.qkv", "blocks_0.mlp.fc2", "blocks_1.mlp.fc2", "head")


def _model(name, weight_bits, activation_bits, text="", **options):
    quantization = Quantization(weight_bits, activation_bits, rules=text, **options)
    return create_model(name, 3, quantization, **SIZES[name])


def _shapes(model):
    images = jax.ShapeDtypeStruct((2, *model.input_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def _calibrated_logits(model, params, images):
    """With quantizers that these images initialise; and those."""
    calibrate = jax.jit(functools.partial(model.apply, mutable=["quant"]))
    (logits, _), state = calibrate({"params": params}, images)
    return logits, state.get("quant", {})


def _quantizers(model):
    """Dotted names of what is in `quant`: of activations, kernels and factors."""
    found = jax.tree_util.tree_leaves_with_path(
        _shapes(model).get("quant", {}),
        is_leaf=lambda node: isinstance(
            node, quantizers.ActivationQuantizer | quantizers.WeightQuantizer
        ),
    )
    return {".".join(key.key for key in path) for path, _ in found}


def _settle(text, names=NAMES):
    return rules.join(rules.settle(rules.parse(text), names))


def test_a_pattern_stands_for_the_names_it_matches():
    assert _settle("*.fc2=4x8") == "blocks_0.mlp.fc2=4x8,blocks_1.mlp.fc2=4x8"
    assert _settle("blocks_[1-9].*=4x8, head = 32x32") == "blocks_1.mlp.fc2=4x8,head=32x32"
    assert _settle("") == ""


def test_rules_that_agree_may_match_one_layer():
    assert _settle("blocks_0.*=8x8,*.qkv=8x8,*.fc2=8x8").count("blocks_0.mlp.fc2") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fc2=4x8", "rule 'fc2=4x8' matches no layer; there are patch_embed.proj, blocks_"),
        ("blocks_2.mlp.fc2=4x8", "did you mean 'blocks_1.mlp.fc2'"),
        ("head=8x8,h*=4x8", "'head=8x8' and 'h*=4x8' contradict each other: both match head"),
        ("head=1x8", "rule 'head=1x8': weight_bits must be 2 to 8, or 32 for none, got 1"),
        ("head=8x16", "rule 'head=8x16': activation_bits must be 2 to 8, or 32 for none, got 16"),
        ("head=8", "rule 'head=8': bits of weights and activations read like 4x8, got '8'"),
        ("=8x8", "rule '=8x8' must read PATTERN=WxA"),
        ("head=8x8,", "rule '' must read PATTERN=WxA"),
    ],
)
def test_a_mistake_names_the_rule(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        _settle(text)


def test_a_model_refuses_a_rule_of_no_layer_of_it():
    with pytest.raises(ValueError, match=r"'blocks_0\.mlp\.fc3=4x8' matches no layer"):
        _model("vit", 4, 4, "blocks_0.mlp.fc3=4x8")


def test_a_pattern_that_was_not_settled_is_noticed():
    model = _model("vit", 4, 4).clone(quantization=Quantization(4, 4, rules="*.fc2=4x8"))
    with pytest.raises(ValueError, match="a pattern, which `create_model` settles"):
        _shapes(model)


@pytest.mark.parametrize("name", MODELS)
def test_a_rule_for_every_layer_is_another_model_s_bits(name):
    """Every layer that there is has a name, and every module finds its bits by it."""
    ruled, plain = _model(name, 4, 4, "*=3x8"), _model(name, 3, 8)
    assert len(ruled.quantization.rules.split(",")) == len(layer_names(plain))
    assert _shapes(ruled) == _shapes(plain)
    images = jax.random.normal(jax.random.key(0), (2, *plain.input_shape))
    params = jax.jit(full_precision(plain).init)(jax.random.key(1), images)["params"]
    found, expected = (_calibrated_logits(model, params, images)[0] for model in (ruled, plain))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", MODELS)
def test_each_layer_alone_has_quantizers_where_the_rest_is_in_float(name):
    plain = _model(name, 32, 32)
    assert not _quantizers(plain)
    for layer in layer_names(plain):
        alone = _quantizers(_model(name, 32, 32, f"{layer}=4x4", keeps_grids=True))
        is_dense = layer.rpartition(".")[2] not in ("query", "key", "value", "probabilities")
        if not is_dense:
            assert alone == {layer}
        elif layer == "patch_embed.proj":
            assert alone == {f"{layer}.kernel"}
        else:
            has_factor = layer.endswith("fc2")
            expected = {f"{layer}.kernel", f"{layer}.input"}
            assert alone == expected | ({f"{layer}.input_factor"} if has_factor else set())


def test_a_layer_in_float_has_no_quantizer_among_others():
    everything = _quantizers(_model("vit", 4, 4, keeps_grids=True))
    some = _quantizers(_model("vit", 4, 4, "head=32x4,blocks_1.mlp.fc2=4x32", keeps_grids=True))
    assert everything - some == {
        *("head.kernel", "blocks_1.mlp.fc2.input", "blocks_1.mlp.fc2.input_factor")
    }
    assert some < everything


def test_blocks_of_the_same_bits_are_traced_once():
    model = _model("vit", 4, 4, "blocks_*.mlp.fc2=4x8,head=8x8")
    first, second = (part.module for part in model.parts())
    assert first == second
    model = _model("vit", 4, 4, "blocks_1.mlp.fc2=4x8")
    first, second = (part.module for part in model.parts())
    assert first == _model("vit", 4, 4).parts()[0].module
    assert second != first


@pytest.mark.parametrize("activation_bits", [4, 32])
def test_a_probability_in_float_meets_a_value_of_few_bits(activation_bits):
    text = f"blocks_0.attn.probabilities=4x32,blocks_0.attn.value=4x{activation_bits}"
    model = _model("vit", 32, 32, text)
    images = jax.random.normal(jax.random.key(0), (4, *model.input_shape))
    params = jax.jit(full_precision(model).init)(jax.random.key(1), images)["params"]
    logits, quant = _calibrated_logits(model, params, images)
    float_logits, _ = jax.jit(full_precision(model).apply)({"params": params}, images)
    assert bool(quant) == (activation_bits == 4)
    assert np.array_equal(logits, float_logits) == (activation_bits == 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deit_distilled", "swin"])
def test_layers_are_fitted_at_their_own_bits(name):
    text = "patch_embed.proj=8x8,*.fc2=3x8,*.attn.query=4x32,head*=32x32"
    model = _model(name, 4, 4, text, keeps_grids=True)
    images = jax.random.normal(jax.random.key(0), (4, *model.input_shape))
    params = jax.jit(full_precision(model).init)(jax.random.key(1), images)["params"]
    settings = calibration.CalibrationSettings(
        ranges="least_squares", equalize_norms=False, equalize_hidden=False
    )
    variables = calibration.fit(model, params, images, settings, jax.random.key(2))
    expected = {"quant": {}} | _shapes(model)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, expected)
    block = ("blocks_0",) if name != "swin" else ("layers_0", "blocks_0")
    kernel, grid = variables["params"], variables["quant"]
    for step in (*block, "mlp", "fc2"):
        kernel, grid = kernel[step], grid[step]
    codes = np.asarray(kernel["kernel"]) / np.asarray(grid["kernel"].step)[None]
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)
    assert -4 <= codes.min() < -2
    assert codes.max() < 4


def test_training_learns_what_the_rules_leave():
    model = _model("vit", 4, 4, "blocks_0.*=32x32")
    images = jax.random.normal(jax.random.key(0), (2, *model.input_shape))
    variables = model.init(jax.random.key(1), images)
    trained = finetuning.trainable(variables)["quant"]
    assert set(trained) == {"blocks_1", "head"}
