import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import calibration, torch_import
from maskaq_jax.models import Quantization, create_model, swin
from tests.reference import quantizer_path

TINY = {"img_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4]}
TINY |= {"window_size": 4}


def _load(golden, quantization=None):
    arguments = dict(golden.arguments)
    model = create_model(arguments.pop("arch"), quantization=quantization, **arguments)
    return model, torch_import.load_torch_weights(golden.weights, model)


def test_full_precision_agrees_with_the_reference(golden, close):
    arrays = golden("swin")
    model, params = _load(arrays)
    apply = jax.jit(model.apply)
    logits, out = apply({"params": params}, arrays["images"])
    close(logits, arrays["logits_fp"])
    close(out["tokens"], arrays["features_fp"])
    logits, out = apply({"params": params}, arrays["images2"])
    close(logits, arrays["logits_fp2"])
    for layer, attention in enumerate(out["attention_logits"]):
        close(attention, arrays[f"attn_logits_p_{layer}"])


@pytest.mark.parametrize("bits", [3, 4])
def test_quantized_agrees_with_the_reference(golden, close, bits):
    arrays = golden("swin")
    model, params = _load(arrays, Quantization(bits, bits))
    (logits, _), updates = model.apply({"params": params}, arrays["images"], mutable=["quant"])
    close(logits, arrays[f"logits_q{bits}_calibrating"])

    expected = json.loads(str(arrays[f"qparams{bits}"]))
    for name, (step, zero_point, signed) in expected.items():
        quantizer = updates["quant"]
        for key in quantizer_path(name):
            quantizer = quantizer[key]
        close([quantizer.step, quantizer.zero_point], [step, zero_point])
        assert quantizer.signed == signed
    assert len(expected) == len(jax.tree.leaves(updates["quant"])) / 4

    logits, out = jax.jit(model.apply)({"params": params, **updates}, arrays["images2"])
    close(logits, arrays[f"logits_q{bits}"])
    for layer, attention in enumerate(out["attention_logits"]):
        close(attention, arrays[f"attn_logits_q{bits}_{layer}"])


@pytest.fixture(scope="module")
def tiny():
    model = create_model("swin", 5, **TINY)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    return model, jax.jit(model.init)(jax.random.key(1), images)["params"], images


def _block(shift):
    return swin.Block(
        num_heads=2, window=4, shift=shift, mlp_ratio=4.0, quantization=None, dtype=jnp.float32
    )


def _changed_windows(tiny, layer, row, column):
    """Windows of a layer's outputs that feel a change of one patch, one block deep."""
    _, params, _ = tiny
    block = _block(shift=2 if layer else 0)
    tokens = jax.random.normal(jax.random.key(2), (1, 8, 8, 8))
    variables = {"params": params["layers_0"][f"blocks_{layer}"]}
    apply = jax.jit(block.apply)
    _, _, before = apply(variables, tokens)
    _, _, after = apply(variables, tokens.at[0, row, column].multiply(-1.0))
    return sorted(np.flatnonzero(np.abs(after - before).max(axis=(1, 2, 3)) > 1e-6))


def test_a_token_attends_within_its_window_alone(tiny):
    assert _changed_windows(tiny, 0, 0, 0) == [0]
    assert _changed_windows(tiny, 0, 3, 4) == [1]
    assert _changed_windows(tiny, 0, 4, 4) == [3]


def test_shifted_windows_join_their_neighbours(tiny):
    # Shifted by two, row and column 2 to 5 are the first window.
    assert _changed_windows(tiny, 1, 3, 4) == [0]
    assert _changed_windows(tiny, 1, 0, 0) == [3]


def test_the_shift_does_not_join_opposite_borders(tiny):
    _, params, _ = tiny
    block = _block(shift=2)
    variables = {"params": params["layers_0"]["blocks_1"]}
    tokens = jax.random.normal(jax.random.key(2), (1, 8, 8, 8))
    apply = jax.jit(block.apply)
    before = apply(variables, tokens)[0]
    after = apply(variables, tokens.at[0, 0, 0].multiply(-1.0))[0]
    changed = np.abs(after - before).max(axis=(0, 3)) > 1e-6
    expected = np.zeros((8, 8), bool)
    expected[:2, :2] = True
    np.testing.assert_array_equal(changed, expected)


def test_a_stage_no_larger_than_its_window_has_one(tiny):
    model, params, images = tiny
    _, out = jax.jit(model.apply)({"params": params}, images)
    assert [logits.shape[0] for logits in out["attention_logits"]] == [8, 8, 2, 2]


def test_pictured_regions_are_the_tokens_that_receive_most_attention(tiny):
    model, params, images = tiny
    _, out = jax.jit(model.apply)({"params": params}, images)
    mask = model.patch_regions(out["attention_logits"], 0.25)
    assert mask.shape == (2, 16)
    scores = out["attention_logits"][2].mean(axis=(1, 2))
    # The last stage is a window, whose tokens are in the order of the picture.
    np.testing.assert_allclose(model.patch_scores(out["attention_logits"]), scores, rtol=1e-5)
    for image in range(2):
        assert set(np.flatnonzero(mask[image])) == set(np.argsort(scores[image])[-4:].tolist())


def test_without_a_classifier_the_features_come_out(tiny):
    model, params, images = tiny
    bare = model.clone(num_classes=0)
    variables = {"params": {name: value for name, value in params.items() if name != "head"}}
    logits, out = jax.jit(bare.apply)(variables, images)
    assert logits.shape == (2, 16)
    np.testing.assert_array_equal(logits, out["features"])


def test_half_precision_computes_float32_logits_close_to_full_ones(tiny):
    model, params, images = tiny
    logits, out = jax.jit(model.clone(dtype=jnp.bfloat16).apply)({"params": params}, images)
    assert logits.dtype == out["attention_logits"][0].dtype == jnp.float32
    full, _ = jax.jit(model.apply)({"params": params}, images)
    np.testing.assert_allclose(logits, full, atol=0.05)


@pytest.mark.slow
def test_calibration_needs_no_class_token(tiny):
    model, params, images = tiny
    quantized = model.clone(quantization=Quantization(3, 4))
    quant = calibration.calibrate(quantized, params, images)
    logits, _ = jax.jit(quantized.apply)({"params": params, "quant": quant}, images)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"img_size": 30}, "stage 0 a grid that windows of window_size=4"),
        ({"img_size": 17}, "multiple of patch_size, got img_size=17"),
        ({"img_size": 20}, "a multiple of 16 fits"),
        ({"num_heads": [2, 3]}, "stage 1 has 16 channels, which its 3 heads"),
        ({"depths": [2]}, "a value for each stage"),
        ({"depth": 3}, "unknown argument 'depth' of swin; did you mean 'depths'"),
    ],
)
def test_impossible_models_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model("swin", 5, **(TINY | arguments))
