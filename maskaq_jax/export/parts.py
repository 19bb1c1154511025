"""Parts that the networks of several models are made of, described to `operators.Operators`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from maskaq_jax import quantizers
from maskaq_jax.export import trees
from maskaq_jax.export.operators import Kernel, Operators, Rounded
from maskaq_jax.models import Model
from maskaq_jax.models.layers import rounds_activations
from maskaq_jax.quantizers import ByteGrid
from maskaq_jax.schema import ConfigError

Value = TypeVar("Value")
Path = tuple[str, ...]


class Reader:
    """A model's variables, by the paths of its modules."""

    def __init__(self, model: Model, variables: Mapping[str, Any]):
        self._model, self._variables = model, variables

    def parameter(self, path: Path, name: str) -> np.ndarray:
        """float32."""
        return np.asarray(trees.below(self._variables["params"], path)[name], np.float32)

    def has(self, path: Path) -> bool:
        """Whether a module has parameters."""
        return bool(trees.below(self._variables["params"], path))

    def kernel(self, path: Path) -> Kernel:
        """Of a linear layer."""
        own = trees.below(self._variables["params"], path)
        with jax.ensure_compile_time_eval():  # whoever compiles what is read
            codes = trees.kernel_codes(self._model, self._variables, path)
        weight = np.asarray(own[trees.KERNEL], np.float32) if codes is None else None
        bias = np.asarray(own["bias"], np.float32) if "bias" in own else None
        return Kernel(codes and codes.map(np.asarray), weight, bias)

    def grid(self, path: Path, name: str) -> ByteGrid | None:
        """Of an activation; None in full precision. An operand of attention is a layer itself."""
        layer = path if name == "input" else (*path, name)
        quantization = trees.quantization_of(self._model, layer)
        if not rounds_activations(quantization):
            return None
        try:
            with jax.ensure_compile_time_eval():
                return quantizers.byte_grid(self._quant(path)[name], quantization.activation_bits)
        except ValueError as error:
            raise ConfigError(f"{'/'.join((*path, name))}: {error}") from error

    def factor(self, path: Path) -> np.ndarray | None:
        """[C] of a layer's input channels; None where all are 1."""
        factor = self._quant(path).get("input_factor")
        return None if factor is None or np.all(factor == 1) else np.asarray(factor, np.float32)

    def _quant(self, path: Path) -> Mapping[str, Any]:
        return trees.below(self._variables.get("quant", {}), path)


class Heads:
    """How tokens [*lead, N, C] become heads [*lead, H, N, d], and these tokens again.

    Attributes:
      width: d.
    """

    def __init__(self, lead: tuple[int, ...], tokens: int, num_heads: int, channels: int):
        self.width = channels // num_heads
        self._whole = (*lead, tokens, channels)
        self._apart = (*lead, tokens, num_heads, self.width)
        self._lead = tuple(range(len(lead)))

    def take_apart(self, ops: Operators[Value], x: Value) -> Value:
        """[*lead, N, C] -> [*lead, N, H, d]."""
        return ops.reshape(x, self._apart)

    def swap(self, ops: Operators[Value], x: Rounded, is_transposed: bool = False) -> Rounded:
        """[*lead, N, H, d] -> [*lead, H, N, d], or [*lead, H, d, N]."""
        first = len(self._lead)
        last = (first + 2, first) if is_transposed else (first, first + 2)
        return x._replace(value=ops.transpose(x.value, (*self._lead, first + 1, *last)))

    def merge(self, ops: Operators[Value], x: Rounded) -> Rounded:
        """[*lead, H, N, d] -> [*lead, N, C]."""
        first = len(self._lead)
        value = ops.transpose(x.value, (*self._lead, first + 1, first, first + 2))
        return x._replace(value=ops.reshape(value, self._whole))


def self_attention(
    ops: Operators[Value],
    read: Reader,
    x: Rounded,
    path: Path,
    heads: Heads,
    logits_factor: float = 1.0,
    query_factor: float = 1.0,
    epsilon: float = 0.0,
    adjust: Callable[[Value], Value] = lambda logits: logits,
) -> Value:
    """Softmax attention of tokens [*lead, N, C], which are rounded; what `proj` makes of them."""
    kernels = read.kernel((*path, "qkv")).split(3)
    kernels[0] = kernels[0].scaled(query_factor) if query_factor != 1 else kernels[0]
    operands = [
        operand(
            *(ops, read, ops.dense(x, kernel, named(path, "qkv", name)), path, name, heads),
            epsilon=epsilon,
        )
        for kernel, name in zip(kernels, ("query", "key", "value"), strict=True)
    ]
    return attend(ops, read, path, heads, operands, logits_factor, adjust)


# Where queries and keys are normalised, each head by itself.
_NORMS_OF_OPERANDS = {"query": "q_norm", "key": "k_norm", "value": ""}


def operand(
    ops: Operators[Value],
    read: Reader,
    x: Value,
    path: Path,
    name: str,
    heads: Heads,
    epsilon: float = 0.0,
) -> Rounded:
    """Tokens [*lead, N, C] -> an operand of attention, rounded and with its heads apart."""
    own_norm, is_key = (*path, _NORMS_OF_OPERANDS[name]), name == "key"
    if read.has(own_norm):
        x = norm(ops, read, own_norm, heads.take_apart(ops, x), epsilon)
        return heads.swap(ops, quantize(ops, read, x, path, name), is_key)
    rounded = quantize(ops, read, x, path, name)
    return heads.swap(ops, rounded._replace(value=heads.take_apart(ops, rounded.value)), is_key)


def attend(
    ops: Operators[Value],
    read: Reader,
    path: Path,
    heads: Heads,
    operands: Sequence[Rounded],
    logits_factor: float = 1.0,
    adjust: Callable[[Value], Value] = lambda logits: logits,
) -> Value:
    """Both products of attention, and what `proj` makes of them, [*lead, N, C].

    Args:
      ops, read, path: who computes, of which variables.
      heads: of the query.
      operands: query [*lead, H, N, d], key [*lead, H, d, M] and value [*lead, H, M, d].
      logits_factor: which logits are multiplied by.
      adjust: what becomes of them before the softmax.
    """
    query, key, value = operands
    logits = ops.product(query, key, logits_factor, named(path, "logits"))
    probabilities = quantize(ops, read, ops.softmax(adjust(logits)), path, "probabilities")
    attended = ops.product(probabilities, value, 1.0, named(path, "outputs"))
    rounded = quantize(ops, read, attended, (*path, "proj"), "input")
    return ops.dense(heads.merge(ops, rounded), read.kernel((*path, "proj")), named(path, "proj"))


def mlp(ops: Operators[Value], read: Reader, x: Value, path: Path, activation: str) -> Value:
    """Two dense layers, and between them an activation by its name in `layers.ACTIVATIONS`."""
    hidden = ops.activation(dense(ops, read, x, (*path, "fc1")), activation)
    factor = read.factor((*path, "fc2"))
    if factor is not None:
        hidden = ops.multiply(hidden, ops.constant(factor))
    return dense(ops, read, hidden, (*path, "fc2"))


def layer_scaled(ops: Operators[Value], read: Reader, x: Value, path: Path) -> Value:
    """Times LayerScale's factors, if there are some."""
    return ops.multiply(x, ops.constant(read.parameter(path, "gamma"))) if read.has(path) else x


def norm(ops: Operators[Value], read: Reader, path: Path, x: Value, epsilon: float) -> Value:
    scale, bias = (read.parameter(path, name) for name in ("scale", "bias"))
    return ops.layer_norm(x, scale, bias, epsilon)


def dense(ops: Operators[Value], read: Reader, x: Value, path: Path) -> Value:
    """A dense layer, and the rounding of its input."""
    rounded = quantize(ops, read, x, path, "input")
    return ops.dense(rounded, read.kernel(path), "/".join(path))


def conv(ops: Operators[Value], read: Reader, x: Value, path: Path, size: tuple[int, int]) -> Value:
    """A 3 x 3 convolution [B, *size, C] -> [B, *size, out], and the rounding of its input.

    Each row of its kernel is a dense layer of three places side by side. Runtimes compute these
    with integers, and a convolution whose result is not rounded with floats.
    """
    kernel, (rows, columns) = read.kernel(path), size
    rounded = quantize(ops, read, x, path, "input")
    grid, border = rounded.grid, (0, 1, 1, 0)
    zero = None if grid is None else grid.zero_point
    padded = ops.pad(rounded.value, border, border, zero)
    beside = np.arange(columns)[:, None] + np.arange(3)
    padded = ops.take(padded, beside.reshape(-1), axis=2)
    channels = 3 * kernel.shape[2]
    padded = ops.reshape(padded, (-1, rows + 2, columns, channels))
    sums = [
        ops.dense(
            rounded._replace(value=ops.take(padded, i + np.arange(rows), axis=1)),
            own,
            named(path, f"row_{i}"),
        )
        for i, own in enumerate(kernel.rows())
    ]
    if grid is not None and grid.excess:
        beyond = -np.float32(grid.excess * grid.step) * _sums_beyond(kernel.values(), size)
        sums.append(ops.constant(beyond))
    return functools.reduce(ops.add, sums)


def _sums_beyond(kernel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[1, *size, out] sum of a kernel [3, 3, in, out] over what it meets beyond a map's border."""
    rows, columns = size
    beyond: np.ndarray = np.pad(np.zeros(size, np.float32), 1, constant_values=1)
    by_place = kernel.sum(axis=2)
    total = sum(
        beyond[i : i + rows, j : j + columns, None] * by_place[i, j] for i, j in np.ndindex(3, 3)
    )
    return np.asarray(total)[None]


def quantize(ops: Operators[Value], read: Reader, x: Value, path: Path, name: str) -> Rounded:
    return ops.quantize(x, read.grid(path, name), named(path, name))


def named(path: Path, *names: str) -> str:
    return "/".join((*path, *names))
