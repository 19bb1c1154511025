import jax
import numpy as np
import pytest

from maskaq_jax import calibration, quantizers
from maskaq_jax.models import Quantization, create_model

TINY = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
IMAGES = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))


def _model(weight_bits, activation_bits):
    return create_model("vit", 5, Quantization(weight_bits, activation_bits), **TINY)


@pytest.fixture(scope="module")
def params():
    return jax.jit(_model(32, 32).init)(jax.random.key(1), IMAGES)["params"]


@pytest.fixture(scope="module")
def quant(params):
    return calibration.calibrate(_model(3, 3), params, IMAGES)


@pytest.mark.parametrize("weight_bits", [3, 32])
def test_there_are_no_quantizers_where_activations_keep_full_precision(params, weight_bits):
    assert calibration.calibrate(_model(weight_bits, 32), params, IMAGES) == {}


def test_every_rounded_activation_has_its_quantizer(quant):
    block = {
        "attn": {
            "qkv": {"input": 0},
            "query": 0,
            "key": 0,
            "probabilities": 0,
            "value": 0,
            "proj": {"input": 0},
        },
        "mlp": {"fc1": {"input": 0}, "fc2": {"input": 0}},
    }
    # No patch embedding: its input stays full precision.
    expected = {"blocks_0": block, "blocks_1": block, "head": {"input": 0}}
    placed = jax.tree.map(
        lambda _: 0, quant, is_leaf=lambda x: isinstance(x, quantizers.ActivationQuantizer)
    )
    assert placed == expected


def _captured(params, quant):
    """What Q's layers give on the calibration images, and what P's give."""
    model = _model(3, 3)
    q = model.apply({"params": params, "quant": quant}, IMAGES, capture_intermediates=True)
    p = model.clone(quantization=None).apply({"params": params}, IMAGES, capture_intermediates=True)
    return q[1]["intermediates"], p[1]["intermediates"]


INPUTS = {
    "the first block": (("blocks_0", "attn", "qkv"), ("blocks_0", "norm1")),
    "the first block's MLP": (("blocks_0", "mlp", "fc1"), ("blocks_0", "norm2")),
    "the second block": (("blocks_1", "attn", "qkv"), ("blocks_1", "norm1")),
    "the second block's MLP": (("blocks_1", "mlp", "fc1"), ("blocks_1", "norm2")),
    "the classifier": (("head",), ("norm",)),
}


@pytest.mark.parametrize(("layer", "before"), INPUTS.values(), ids=INPUTS)
def test_a_quantizer_sees_the_quantized_layers_before_it(params, quant, layer, before):
    seen = []
    for outputs in _captured(params, quant):
        for name in before:
            outputs = outputs[name]
        tokens = outputs["__call__"][0]
        tokens = tokens[:, 0] if layer == ("head",) else tokens
        seen.append(quantizers.init_activation_quantizer(tokens, 3))
    quantized, full_precision = seen
    found = quant
    for name in (*layer, "input"):
        found = found[name]
    np.testing.assert_allclose(found.step, quantized.step, rtol=1e-4)
    np.testing.assert_allclose(found.zero_point, quantized.zero_point, rtol=1e-3)
    assert found.size == quantized.size
    assert not np.isclose(found.step, full_precision.step, rtol=1e-4)


def test_calibration_leaves_the_weights_alone(params):
    before = jax.tree.map(np.array, params)
    calibration.calibrate(_model(3, 3), params, IMAGES)
    jax.tree.map(np.testing.assert_array_equal, before, params)


def test_other_images_give_other_quantizers(params, quant):
    other = calibration.calibrate(_model(3, 3), params, 2 * IMAGES + 1)
    assert other["head"]["input"].step != quant["head"]["input"].step
