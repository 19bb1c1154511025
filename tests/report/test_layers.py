import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import calibration, export
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import Quantization, create_model, full_precision, layer_names, shapes
from maskaq_jax.report import layers, looks
from maskaq_jax.storage import checked_arrays
from tests import tiny

RULES = "head=8x32,blocks_0.mlp.fc1=32x4"


def _model(quantization):
    return create_model("vit", 10, quantization, **tiny.ARGUMENTS)


@pytest.fixture(scope="module")
def images():
    return np.asarray(jax.random.normal(jax.random.key(1), (4, 28, 28, 3)))


@pytest.fixture(scope="module")
def quantized(images):
    model = _model(Quantization(3, 4, rules=RULES))
    params = jax.jit(full_precision(model).init)(jax.random.key(0), jnp.zeros((1, 28, 28, 3)))
    quant = calibration.calibrate(model, params["params"], images)
    return model, jax.device_get({"params": params["params"], "quant": quant})


def test_every_layer_is_told_of_as_it_is_rounded(quantized):
    model, variables = quantized
    described = {layer.name: layer for layer in layers.describe(model, variables)}
    assert tuple(described) == layer_names(model)
    qkv = described["blocks_1.attn.qkv"]
    kernel = np.asarray(variables["params"]["blocks_1"]["attn"]["qkv"]["kernel"])
    steps = 2 * np.abs(kernel).max(axis=0) / 7
    expected = (steps.min(), np.median(steps), steps.max())
    np.testing.assert_allclose(qkv.weight_steps, expected, rtol=1e-6)
    assert (qkv.weight_bits, qkv.activation_bits, len(qkv.code_shares)) == (3, 4, 8)
    assert qkv.code_shares.sum() == pytest.approx(1)
    own = variables["quant"]["blocks_1"]["attn"]["qkv"]["input"]
    assert qkv.activation_step == pytest.approx(float(own.step))
    query = described["blocks_0.attn.query"]
    assert (query.weight_bits, query.weight_steps, query.activation_bits) == (None, None, 4)
    assert query.activation_step > 0
    assert described["patch_embed.proj"].activation_bits is None


def test_rules_show(quantized):
    described = {layer.name: layer for layer in layers.describe(*quantized)}
    head, fc1 = described["head"], described["blocks_0.mlp.fc1"]
    assert (head.weight_bits, head.activation_bits, head.activation_step) == (8, 32, None)
    # Four codes of 8 bits together.
    assert len(head.code_shares) == 64
    assert (fc1.weight_bits, fc1.weight_steps, fc1.code_shares) == (32, None, None)


def test_packed_bytes_are_those_of_a_packed_file(quantized, tmp_path):
    model, variables = quantized
    whole, packed = layers.count_bytes(model, variables)
    assert whole == 4 * sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    export.write_packed(tmp_path / "model.safetensors", model, variables)
    stored = checked_arrays.read_arrays(tmp_path / "model.safetensors")
    # A file has the spans that steps follow from, too.
    size = sum(array.nbytes for name, array in stored.items() if not name.endswith(".span"))
    assert packed == pytest.approx(size, rel=0.05)
    assert packed < whole / 2


def test_in_full_precision_nothing_is_rounded(quantized):
    _, variables = quantized
    model, bare = _model(Quantization(32, 32)), {"params": variables["params"], "quant": {}}
    for layer in layers.describe(model, bare):
        assert layer.weight_steps is layer.code_shares is layer.activation_step is None
    whole, packed = layers.count_bytes(model, bare)
    assert whole == packed


SWIN = {
    **{"img_size": 16, "patch_size": 2, "embed_dim": 8, "depths": (1, 1)},
    **{"num_heads": (1, 2), "window_size": 4},
}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("swin", SWIN),
        ("deit_distilled", tiny.ARGUMENTS),
        ("vit", tiny.ARGUMENTS | {"global_pool": "map", "reg_tokens": 2}),
    ],
)
def test_layers_of_every_kind_of_model_are_told_of(name, arguments):
    model = create_model(name, 10, Quantization(4, 4), **arguments)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes.variable_shapes(model))
    described = layers.describe(model, ones)
    for layer in described:
        is_dense = layer.weight_bits is not None
        assert is_dense == (layer.weight_steps is not None)
        assert (layer.activation_bits == 4) == (layer.activation_step is not None)
        assert is_dense or layer.activation_step is not None
    assert len(described) == len(layer_names(model))


def test_a_model_of_windows_is_seen_on_the_grid_of_its_last_stage():
    model = create_model("swin", 0, Quantization(32, 32), **SWIN)
    variables = jax.jit(full_precision(model).init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    images = np.asarray(jax.random.normal(jax.random.key(1), (3, 16, 16, 3)))
    found = _look(model, variables["params"], variables, images)
    np.testing.assert_allclose(found.correlations, 1, rtol=1e-5)
    assert [sample.regions.sum() for sample in found.samples] == [8] * 3
    assert found.samples[0].attention_p.shape == (4, 4)
    assert found.samples[0].answer_p is None


@pytest.mark.parametrize("name", ["yolos", "linear_seg", "swin_fpn"])
def test_models_of_other_tasks_are_seen_too(golden, name):
    arguments = dict(golden(name).arguments)
    model = create_model(arguments.pop("arch"), quantization=Quantization(32, 32), **arguments)
    ones = jax.tree.map(lambda x: np.full(x.shape, 0.01, x.dtype), shapes.variable_shapes(model))
    images = np.zeros((2, *model.input_shape), np.float32)
    found = _look(model, ones["params"], ones, images)
    for sample in found.samples:
        assert sample.answer_p is None
        assert sample.regions.shape == model.patch_grid
        assert (sample.found_p is None) == (model.task == "features")
        if sample.found_p is not None:
            assert sample.found_p.shape == sample.found_q.shape == sample.pixels.shape
    assert len(layers.describe(model, ones)) == len(layer_names(model))


def test_both_models_are_seen_alike_where_nothing_is_rounded(quantized, images):
    model = _model(Quantization(32, 32))
    _, variables = quantized
    found = _look(model, variables["params"], {"params": variables["params"]}, images)
    np.testing.assert_allclose(found.correlations, 1, rtol=1e-5)
    logits, _ = model.apply({"params": variables["params"]}, images)
    for sample, own in zip(found.samples, np.asarray(logits), strict=True):
        assert sample.answer_p == sample.answer_q
        assert sample.answer_p.label == own.argmax()
        assert sample.answer_p.share == pytest.approx(float(jax.nn.softmax(own).max()), abs=1e-5)
        np.testing.assert_allclose(sample.attention_p, sample.attention_q, rtol=1e-5)
        # The half that gets most attention.
        ranked = np.argsort(sample.attention_p.ravel())[::-1]
        assert set(np.flatnonzero(sample.regions)) == set(ranked[:8].tolist())


def test_a_low_bit_model_attends_otherwise(quantized, images):
    model, variables = quantized
    found = _look(model, variables["params"], variables, images)
    assert len(found.correlations) == 2
    assert max(found.correlations) < 0.9999
    assert found.samples[0].pixels.dtype == np.uint8
    assert found.samples[0].pixels.shape == (28, 28, 3)


def _look(model, params, variables, images):
    return looks.look(model, params, variables, images, 0.5, Pixels((0.5,) * 3, (0.5,) * 3))
