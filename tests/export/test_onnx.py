"""What an ONNX file is made of, and what it says of itself."""

import dataclasses
import json

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from maskaq_jax.export import agreement
from maskaq_jax.export import onnx as writer
from maskaq_jax.models import Quantization
from maskaq_jax.schema import ConfigError
from tests.export import networks


@pytest.mark.parametrize(
    ("name", "w", "a", "keeps_grids", "outputs"),
    [
        ("siglip", 3, 3, True, {"logits": [5]}),
        ("dinov2", 5, 32, False, {"logits": [24]}),
        ("yolos", 4, 8, False, {"logits": [3, 5 + 1], "pred_boxes": [3, 4]}),
        ("linear segmenter", 3, 3, True, {"logits": [5, 12, 12]}),
        ("upernet", 4, 8, False, {"logits": [5, 22, 27]}),
        pytest.param(
            *("pyramid", 4, 8, False),
            {"map_0": [8, 11, 14], "map_1": [8, 6, 7], "map_2": [8, 3, 4]},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_file_is_of_standard_operators_and_passes_the_checker(name, w, a, keeps_grids, outputs):
    proto = networks.onnx_file(name, w, a, keeps_grids)
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    shapes = {
        output.name: [
            axis.dim_param or axis.dim_value for axis in output.type.tensor_type.shape.dim
        ]
        for output in inferred.graph.output
    }
    assert shapes == {name: ["batch", *shape] for name, shape in outputs.items()}
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 21)]
    assert {node.domain for node in proto.graph.node} == {""}
    used = {name for node in proto.graph.node for name in node.input}
    assert {constant.name for constant in proto.graph.initializer} <= used


@pytest.mark.parametrize(
    ("name", "w", "a", "keeps_grids", "num_products", "num_floats"),
    [
        ("siglip", 3, 3, True, 8 + 7 + 1, 0),
        pytest.param("swin", 4, 4, False, 3 * 8 + 2, 0, marks=pytest.mark.slow),
        # Three of each convolution; and means over bins are not rounded.
        pytest.param(
            *("upernet", 3, 3, True, 3 * 8 + 1 + 1 + 4 + 3 * 3 + 1, 2 * 4), marks=pytest.mark.slow
        ),
    ],
)
def test_the_runtime_s_products_are_of_integers(
    name, w, a, keeps_grids, num_products, num_floats, tmp_path
):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    content = networks.onnx_file(name, w, a, keeps_grids).SerializeToString()
    onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    integer = operators.count("MatMulIntegerToFloat") + operators.count("QLinearMatMul")
    assert integer == num_products
    # Nothing is dequantized but in products, and no weight is unpacked again in every pass.
    assert operators.count("MatMul") == num_floats
    assert not {"Gemm", "DequantizeLinear", "BitShift", "Cast"} & set(operators)


def test_pixels_are_normalised_inside():
    problem = networks.problem("clip", 8, 8, False)
    model, variables = problem.model, problem.variables
    images = np.random.default_rng(0).integers(0, 256, (3, *model.input_shape), np.uint8)
    content = writer.build(*problem.written, "pixels").SerializeToString()
    (found,) = onnxruntime.InferenceSession(content).run(None, {"pixels": images})
    normalised = networks.PIXELS.from_bytes(images)
    expected = networks.outputs(model, variables, normalised)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(agreement.open_onnx(content, networks.PIXELS)(normalised), found)


def test_pictures_are_made_grey_inside_where_the_model_knows_no_colours():
    problem = networks.problem("clip", 8, 8, False)
    pixels = dataclasses.replace(networks.PIXELS, grey=True)
    model, variables, _, preprocessing = problem.written
    content = writer.build(model, variables, pixels, preprocessing, "pixels").SerializeToString()
    images = np.random.default_rng(0).integers(0, 256, (40, *model.input_shape), np.uint8)
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    session = onnxruntime.InferenceSession(content)
    (found,) = session.run(None, {"pixels": images})
    (expected,) = session.run(None, {"pixels": np.repeat(grey[..., None], 3, axis=-1)})
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("w", [3, 4, 7])
def test_another_runtime_unpacks_weights_to_the_same(w, tmp_path):
    """OpenVINO's shift to the right rounds where standard ONNX cuts off."""
    openvino = pytest.importorskip("openvino")
    problem = networks.problem("clip", w, 8, False)
    content = writer.build(*problem.written).SerializeToString()
    (tmp_path / "model.onnx").write_bytes(content)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    compiled = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", settings)
    images = agreement.as_input(np.asarray(problem.images), "pixel_values", networks.PIXELS)
    (expected,) = onnxruntime.InferenceSession(content).run(None, {"pixel_values": images})
    found = compiled(images)[0]
    np.testing.assert_allclose(found, expected, atol=1e-2 * np.abs(expected).max())


def test_the_file_says_how_pictures_are_prepared():
    (entry,) = networks.onnx_file("clip", 8, 8, False).metadata_props
    assert entry.key == "maskaq_jax"
    described = json.loads(entry.value)
    assert described["task"] == "classification"
    assert described["size"] == [8, 8]
    assert (described["crop"], described["interpolation"]) == (0.9, "bicubic")
    assert (described["mean"], described["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3])
    assert described["grey"] is False
    assert described["bits"] == {"weights": 8, "activations": 8}
    assert described["classes"] == 5


def _changed(variables):
    """The same in nested dictionaries of its own."""
    return jax.tree.map(lambda leaf: leaf, variables)


@pytest.mark.slow
def test_a_grid_beside_zero_keeps_its_values():
    """Of 8 bits the zero point fits no byte then; probabilities and values come to have one."""
    problem = networks.problem("clip", 8, 8, False)
    model, variables = problem.model, _changed(problem.variables)
    block = variables["quant"]["blocks_0"]
    for owner, key in (
        *[(block["attn"], "probabilities"), (block["attn"], "value")],
        *[(block["mlp"]["fc1"], "input")],
    ):
        owner[key] = owner[key].replace(zero_point=owner[key].zero_point - 160)
    proto = writer.build(model, variables, *problem.written[2:])
    found = agreement.open_onnx(proto.SerializeToString(), networks.PIXELS)(problem.images)
    expected = networks.outputs(model, variables, problem.images)
    assert np.median(np.abs(found - expected)) < 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_the_border_of_a_convolution_is_zero_where_no_byte_is():
    problem = networks.problem("upernet", 8, 8, False)
    model, variables = problem.model, _changed(problem.variables)
    for name in ("bottleneck", "fpn_convs_0", "fpn_bottleneck"):
        own = variables["quant"]["decode_head"][name]
        own["input"] = own["input"].replace(zero_point=own["input"].zero_point - 160)
    proto = writer.build(model, variables, *problem.written[2:])
    found = agreement.open_onnx(proto.SerializeToString(), networks.PIXELS)(problem.images)
    networks.assert_same(found, networks.outputs(model, variables, problem.images))


def test_a_quantizer_without_integers_is_refused():
    problem = networks.problem("clip", 8, 8, False)
    variables = _changed(problem.variables)
    block = variables["quant"]["blocks_0"]["attn"]
    block["key"] = block["key"].replace(step=-block["key"].step)
    with pytest.raises(ConfigError, match="blocks_0/attn/key: a quantizer of step -"):
        writer.build(problem.model, variables, *problem.written[2:])


def test_a_model_of_another_definition_is_refused():
    class Other:
        quantization = Quantization(4, 4)
        input_shape = (8, 8, 3)

    with pytest.raises(ConfigError, match="no rule to export a Other"):
        writer.build(Other(), {"params": {}}, networks.PIXELS, networks.PREPROCESSING)


def test_a_model_too_large_for_one_file_is_refused_with_the_way_out(monkeypatch, tmp_path):
    problem = networks.problem("clip", 8, 8, False)
    monkeypatch.setattr("onnx.checker.MAXIMUM_PROTOBUF", 10_000)
    with pytest.raises(ConfigError, match=r"GB, where one ONNX file holds .* --format=safetensors"):
        writer.write_onnx(tmp_path / "q.onnx", *problem.written)
    assert not [*tmp_path.iterdir()]
