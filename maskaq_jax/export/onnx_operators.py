"""The operators of an ONNX file: opset 21, none of a vendor's.

A product of rounded values is a MatMul behind two DequantizeLinear, which runtimes execute with
integers. How weights are stored decides whether they do, and how small the file is:

- 2 to 7 bits are packed without gaps (`packing`), and int8 once the file is loaded. INT4 would do
  for 4 bits; but straight into DequantizeLinear onnxruntime computes with floats then, and its Cast
  to int8 is younger than onnxruntime 1.20.
- 8 bits are uint8 with zero point 128. CPUs with AVX2 and no VNNI add two products of a byte and an
  int8 in 16 bits, where those of 8 bits saturate.
- Of activations that are not rounded the weights are float32 in the end, which is folded too.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from maskaq_jax.export import packing
from maskaq_jax.export.operators import Kernel, Rounded
from maskaq_jax.quantizers import ByteGrid, WeightCodes

_BYTE_BITS = 8


class OnnxOperators:
    """`operators.Operators` whose values are names; images are [B, channels, height, width].

    Attributes:
      nodes: in order.
      initializers: constants of the file.
      seen: value of each rounded activation and each product, by the name of its variables.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.seen: dict[str, str] = {}
        self._constants: dict[tuple[Any, ...], str] = {}
        self._floats: dict[tuple[str, float], str] = {}
        self._count = 0

    def emit(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Adds a node of one output; returns that."""
        self._count += 1
        output = name or f"{operator}_{self._count}"
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._store(numpy_helper.from_array(array))
        return self._constants[key]

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        return self.emit("Reshape", x, self.constant(np.array(shape, np.int64)))

    def transpose(self, x: str, axes: Sequence[int]) -> str:
        return self.emit("Transpose", x, perm=list(axes))

    def take(self, x: str, indices: np.ndarray, axis: int) -> str:
        return self.emit("Gather", x, self.constant(indices.astype(np.int64)), axis=axis)

    def concatenate(self, x: Sequence[str], axis: int) -> str:
        return self.emit("Concat", *x, axis=axis)

    def pad(
        self, x: str, before: Sequence[int], behind: Sequence[int], byte: int | None = None
    ) -> str:
        counts = self.constant(np.array([*before, *behind], np.int64))
        return self.emit("Pad", x, counts, *(() if byte is None else (self._byte(byte),)))

    def resize(self, x: str, size: tuple[int, int], to: tuple[int, int]) -> str:
        # All runtimes resize maps whose channels come first.
        scales = [1.0, 1.0, *map(_scale, size, to)]
        y = self.emit(
            *("Resize", self.transpose(x, (0, 3, 1, 2)), ""),
            self.constant(np.array(scales, np.float32)),
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
        return self.transpose(y, (0, 2, 3, 1))

    def add(self, x: str, y: str) -> str:
        return self.emit("Add", x, y)

    def multiply(self, x: str, y: str) -> str:
        return self.emit("Mul", x, y)

    def mean(self, x: str, axis: int) -> str:
        return self.emit("ReduceMean", x, self.constant(np.array([axis], np.int64)))

    def layer_norm(self, x: str, scale: np.ndarray, bias: np.ndarray, epsilon: float) -> str:
        affine = self.constant(scale), self.constant(bias)
        return self.emit("LayerNormalization", x, *affine, axis=-1, epsilon=epsilon)

    def activation(self, x: str, name: str) -> str:
        if name == "quick_gelu":
            return self._gated(x, self.multiply(x, self._scalar(1.702)))
        if name == "silu":
            return self._gated(x, x)
        if name == "gelu_tanh":
            return self.emit("Gelu", x, approximate="tanh")
        return self.emit({"gelu": "Gelu", "relu": "Relu"}[name], x)

    def sigmoid(self, x: str) -> str:
        return self.emit("Sigmoid", x)

    def softmax(self, x: str) -> str:
        return self.emit("Softmax", x, axis=-1)

    def patches(
        self, images: str, kernel: Kernel, name: str, padding: tuple[int, int] = (0, 0)
    ) -> str:
        # ONNX has the output channels first, and then those of the input.
        order = (3, 2, 0, 1)
        if kernel.codes is None:
            weight = self.constant(kernel.values().transpose(order))
        else:
            codes = kernel.codes._replace(codes=kernel.codes.codes.transpose(order))
            weight = self._float_weight(codes, np.asarray(codes.step)[:, None, None, None])
        patch, features = kernel.shape[0], kernel.shape[-1]
        bias = () if kernel.bias is None else (self.constant(kernel.bias),)
        ends = {"strides": [patch, patch], "pads": [0, 0, *padding]}
        x = self.emit("Conv", images, weight, *bias, name=name, **ends)
        return self.transpose(self.reshape(x, (0, features, -1)), (0, 2, 1))

    def quantize(self, x: str, grid: ByteGrid | None, name: str) -> Rounded:
        if grid is None:
            return Rounded(x, None)
        if grid.excess:
            x = self.emit("Sub", x, self._scalar(_excess(grid)))
        scale, zero_point = self._scalar(grid.step), self._byte(grid.zero_point)
        is_whole = (grid.lowest, grid.highest) == (0, 255)
        x = self.emit("QuantizeLinear", x, scale, zero_point, name=name if is_whole else "")
        if not is_whole:
            ends = self._byte(grid.lowest), self._byte(grid.highest)
            x = self.emit("Clip", x, *ends, name=name)
        self.seen[name] = x
        return Rounded(x, grid)

    def dense(self, x: Rounded, kernel: Kernel, name: str) -> str:
        bias = kernel.bias
        if x.grid is None:
            codes = kernel.codes
            own = None if codes is None else self._float_weight(codes, np.asarray(codes.step))
        else:
            own = None if kernel.codes is None else self._dequantized(kernel.codes)
            if x.grid.excess:
                columns = np.float32(_excess(x.grid)) * kernel.values().sum(axis=0)
                bias = columns if bias is None else bias + columns
        weight = own or self.constant(kernel.values())
        is_last = bias is None
        y = self.emit("MatMul", self._as_floats(x), weight, name=name if is_last else "")
        if bias is not None:
            y = self.emit("Add", y, self.constant(bias), name=name)
        self.seen[name] = y
        return y

    def product(self, x: Rounded, y: Rounded, factor: float, name: str) -> str:
        operands = []
        for one, own_factor in ((x, factor), (y, 1.0)):
            floats = self._as_floats(one, own_factor)
            if one.grid is not None and one.grid.excess:
                excess = own_factor * _excess(one.grid)
                floats = self.add(floats, self._scalar(excess))
            operands.append(floats)
        self.seen[name] = self.emit("MatMul", *operands, name=name)
        return name

    def _as_floats(self, x: Rounded, factor: float = 1.0) -> str:
        """Dequantized, but for the excess, and multiplied."""
        if x.grid is None:
            return x.value if factor == 1 else self.multiply(x.value, self._scalar(factor))
        key = (x.value, factor)
        if key not in self._floats:
            scale = np.float32(x.grid.step) * np.float32(factor)
            grid = self._scalar(float(scale)), self._byte(x.grid.zero_point)
            self._floats[key] = self.emit("DequantizeLinear", x.value, *grid)
        return self._floats[key]

    def _gated(self, x: str, gate: str) -> str:
        return self.multiply(x, self.sigmoid(gate))

    def _scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def _byte(self, value: int) -> str:
        return self.constant(np.array(value, np.uint8))

    def _dequantized(self, codes: WeightCodes) -> str:
        """[in, out], as products of integers take it."""
        stored, zero, kind = self._codes(codes)
        zeros: np.ndarray = np.full(codes.step.shape, zero, kind)
        steps = self.constant(np.asarray(codes.step))
        return self.emit("DequantizeLinear", stored, steps, self.constant(zeros), axis=1)

    def _float_weight(self, codes: WeightCodes, steps: np.ndarray) -> str:
        """Float32 once the file is loaded."""
        stored, zero, _ = self._codes(codes)
        floats = self.emit("Cast", stored, to=TensorProto.FLOAT)
        if zero:
            floats = self.emit("Sub", floats, self._scalar(zero))
        return self.multiply(floats, self.constant(steps))

    def _codes(self, codes: WeightCodes) -> tuple[str, int, type]:
        """Codes once the file is loaded, their zero point and the type of both."""
        array = np.asarray(codes.codes)
        if codes.bits == _BYTE_BITS:
            unsigned = (array.astype(np.int16) + 128).astype(np.uint8)
            return self._store(numpy_helper.from_array(unsigned)), 128, np.uint8
        # Below 128 a Cast to int8 is one everywhere. The sign's bit taken for -2^(k-1) then makes
        # the other bits a code; int8 have no differences.
        x = self.emit("Cast", self._unpacked(codes.bits, array), to=TensorProto.INT8)
        half = 2 ** (codes.bits - 1)
        sign, rest = (
            self.emit("BitwiseAnd", x, self.constant(np.array(mask, np.int8)))
            for mask in (half, half - 1)
        )
        return self.emit("BitwiseOr", rest, self.emit("Neg", sign)), 0, np.int8

    def _unpacked(self, bits: int, array: np.ndarray) -> str:
        """uint8 of the array's shape: the last k bits of its codes."""
        parts = []
        packed = packing.pack_fields(array, bits)
        for (width, lower), own in zip(packing.fields(bits), packed, strict=True):
            x = self._store(numpy_helper.from_array(own[None]))
            shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
            # What is shifted out is 0 by then: a runtime may divide, and round.
            x = self.emit("BitwiseAnd", x, self.constant((2**width - 1) << shifts))
            x = self.emit("BitShift", x, self.constant(shifts), direction="RIGHT")
            if lower:
                x = self.emit("BitShift", x, self._byte(lower), direction="LEFT")
            parts.append(x)
        if len(parts) > 1:
            parts = [self.reshape(x, (-1,)) for x in parts]
        x = functools.reduce(functools.partial(self.emit, "BitwiseOr"), parts)
        if array.size % 8:
            x = self.reshape(x, (-1,))
            ends = (np.array([end], np.int64) for end in (0, array.size))
            x = self.emit("Slice", x, *map(self.constant, ends))
        return self.reshape(x, array.shape)

    def _store(self, tensor: TensorProto) -> str:
        self._count += 1
        tensor.name = f"constant_{self._count}"
        self.initializers.append(tensor)
        return tensor.name


def _scale(size: int, to: int) -> float:
    """`to / size` in float32, but not below it: a runtime takes the floor of its product."""
    scale = np.float32(to / size)
    while size * float(scale) < to:
        scale = np.nextafter(scale, np.float32(np.inf))
    return float(scale)


def _excess(grid: ByteGrid) -> float:
    """What its values lie above those of its bytes without excess."""
    return grid.excess * grid.step
