"""Layers of an ONNX file by themselves, at every number of bits."""

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from maskaq_jax.export.onnx_operators import OnnxOperators
from maskaq_jax.export.operators import Kernel
from maskaq_jax.models.layers import ACTIVATIONS
from maskaq_jax.quantizers import ByteGrid, WeightCodes

TOKENS, INPUTS, OUTPUTS = 3, 37, 11
# Of rank 3: a product of rank 2 is a Gemm, which runtimes compute with floats.
X = np.random.default_rng(0).normal(size=(2, TOKENS, INPUTS)).astype(np.float32)


def _kernel(bits):
    rng = np.random.default_rng(bits)
    half = 2 ** (bits - 1)
    codes = rng.integers(-half, half, (INPUTS, OUTPUTS)).astype(np.int8)
    codes[0], codes[1] = -half, half - 1
    step = rng.uniform(0.01, 0.1, OUTPUTS).astype(np.float32)
    bias = rng.normal(size=OUTPUTS).astype(np.float32)
    return Kernel(WeightCodes(codes, step, None, bits), None, bias)


def _grid(bits):
    lowest = 1 if bits < 8 else 0
    return ByteGrid(6 / 2**bits, lowest + 2 ** (bits - 1), lowest, lowest + 2**bits - 1, 0, 0)


def _in_steps(x, grid):
    codes = np.clip(
        np.round(x / np.float32(grid.step)) + grid.zero_point, grid.lowest, grid.highest
    )
    return codes - grid.zero_point


def _graph(build):
    """A file of what `build` makes of its operators."""
    ops = OnnxOperators()
    result = build(ops)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", TOKENS, width])
        for name, width in (("x", INPUTS), (result, None))
    ]
    graph = helper.make_graph(ops.nodes, "layer", ends[:1], ends[1:], ops.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@functools.cache
def _file(weight_bits, activation_bits):
    kernel, grid = _kernel(weight_bits), _grid(activation_bits)
    return _graph(lambda ops: ops.dense(ops.quantize("x", grid, "codes"), kernel, "y"))


@pytest.mark.parametrize("weight_bits", range(2, 9))
@pytest.mark.parametrize("activation_bits", range(2, 9))
def test_a_layer_s_product_is_that_of_its_codes(weight_bits, activation_bits):
    file = _file(weight_bits, activation_bits)
    onnx.checker.check_model(file, full_check=True)
    session = onnxruntime.InferenceSession(
        file.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    kernel, grid = _kernel(weight_bits), _grid(activation_bits)
    sums = _in_steps(X, grid) @ kernel.codes.codes.astype(np.float64)
    expected = sums * grid.step * kernel.codes.step + kernel.bias
    (found,) = session.run(None, {"x": X})
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_take_the_bits_that_they_have(bits):
    stored = sum(
        len(constant.raw_data)
        for constant in _file(bits, 8).graph.initializer
        if constant.data_type in (TensorProto.UINT8, TensorProto.INT8)
    )
    # And zero points, a byte for each output channel, and the numbers that take bytes apart.
    size = INPUTS * OUTPUTS
    assert bits * size / 8 <= stored < bits * (size + 8) / 8 + OUTPUTS + 40


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_runtime_computes_with_integers(bits, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        _file(bits, 8).SerializeToString(), options, ["CPUExecutionProvider"]
    )
    operators = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert "MatMulIntegerToFloat" in operators
    assert not {"MatMul", "Gemm", "DequantizeLinear", "BitShift", "Cast"} & operators


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_the_model_s(name):
    file = _graph(lambda ops: ops.activation("x", name))
    onnx.checker.check_model(file, full_check=True)
    session = onnxruntime.InferenceSession(
        file.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(session.run(None, {"x": X})[0], ACTIVATIONS[name](X), atol=1e-6)
    assert {opset.domain for opset in file.opset_import} == {""}
