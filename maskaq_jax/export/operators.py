"""What a low-bit network is made of, whoever computes it: JAX, or what executes a file."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import numpy as np

from maskaq_jax.quantizers import ByteGrid, WeightCodes

Value = TypeVar("Value")


class Rounded(NamedTuple):
    """An activation that was rounded, or in full precision the activation itself.

    Attributes:
      value: bytes of the grid, of the operators' own type; floats where there is no grid.
      grid: what the bytes stand for.
    """

    value: Any
    grid: ByteGrid | None


class Kernel(NamedTuple):
    """A linear layer's weights.

    Attributes:
      codes: of what is rounded, [..., out]; None for full precision.
      weight: [..., out] float32 in full precision, else None.
      bias: [out] float32, or None.
    """

    codes: WeightCodes | None
    weight: np.ndarray | None
    bias: np.ndarray | None

    def values(self) -> np.ndarray:
        """[..., out] float32."""
        if self.codes is None:
            assert self.weight is not None
            return self.weight
        with jax.ensure_compile_time_eval():
            return np.asarray(self.codes.values())

    @property
    def shape(self) -> tuple[int, ...]:
        """[..., out]."""
        if self.codes is not None:
            return self.codes.codes.shape
        assert self.weight is not None
        return self.weight.shape

    def split(self, count: int) -> list["Kernel"]:
        """The layers that give each of `count` equal parts of the output channels."""
        return [self._part(number, count) for number in range(count)]

    def _part(self, number: int, count: int) -> "Kernel":
        def cut(array: Any) -> Any:
            width = array.shape[-1] // count
            return array[..., number * width : (number + 1) * width]

        return Kernel(
            None if self.codes is None else self.codes.map(cut),
            None if self.weight is None else cut(self.weight),
            None if self.bias is None else cut(self.bias),
        )

    def rows(self) -> list["Kernel"]:
        """Of a convolution [rows, columns, in, out]: layers [columns in, out] whose sum it is."""
        return [self._row(number) for number in range(self.shape[0])]

    def _row(self, number: int) -> "Kernel":
        def cut(array: Any) -> Any:
            return array[number].reshape(-1, array.shape[-1])

        codes = self.codes
        return Kernel(
            codes and codes._replace(codes=cut(codes.codes)),
            None if self.weight is None else cut(self.weight),
            None if number else self.bias,
        )

    def scaled(self, factor: float) -> "Kernel":
        """The layer whose output is this one's times a factor."""
        scale = np.float32(factor)
        codes = self.codes
        return Kernel(
            codes and codes._replace(step=codes.step * scale, span=None),
            None if self.weight is None else self.weight * scale,
            None if self.bias is None else self.bias * scale,
        )


class Operators(Protocol[Value]):
    """Computes with values, each of which has the batch as its first axis, or is a constant.

    Shapes have -1 for the batch. `name` is that of the variables, as `blocks_0/attn/qkv`.
    """

    def constant(self, array: np.ndarray) -> Value:
        """float32, or int64 for indices."""

    def reshape(self, x: Value, shape: Sequence[int]) -> Value: ...

    def transpose(self, x: Value, axes: Sequence[int]) -> Value: ...

    def take(self, x: Value, indices: np.ndarray, axis: int) -> Value:
        """Those of an axis, in the order of indices [n]."""

    def concatenate(self, x: Sequence[Value], axis: int) -> Value: ...

    def pad(
        self, x: Value, before: Sequence[int], behind: Sequence[int], byte: int | None = None
    ) -> Value:
        """With zeros before and behind what each axis has, or of bytes with one of them."""

    def resize(self, x: Value, size: tuple[int, int], to: tuple[int, int]) -> Value:
        """[B, *size, C] -> [B, *to, C], `models.maps.resize_bilinear`."""

    def add(self, x: Value, y: Value) -> Value: ...

    def multiply(self, x: Value, y: Value) -> Value: ...

    def mean(self, x: Value, axis: int) -> Value:
        """Of an axis, which stays with length 1."""

    def layer_norm(
        self, x: Value, scale: np.ndarray, bias: np.ndarray, epsilon: float
    ) -> Value: ...

    def activation(self, x: Value, name: str) -> Value:
        """One of `models.layers.ACTIVATIONS`."""

    def sigmoid(self, x: Value) -> Value: ...

    def softmax(self, x: Value) -> Value:
        """Over the last axis."""

    def patches(
        self, images: Value, kernel: Kernel, name: str, padding: tuple[int, int] = (0, 0)
    ) -> Value:
        """Images -> [B, patches, out], a product with the kernel [patch, patch, in, out] each.

        Images have as many rows and columns of zeros behind them first; what patches don't cover
        is cut.
        """

    def quantize(self, x: Value, grid: ByteGrid | None, name: str) -> Rounded:
        """Bytes of values; the values themselves where there is no grid."""

    def dense(self, x: Rounded, kernel: Kernel, name: str) -> Value:
        """[..., in] -> [..., out]; sums are of integers where both sides are rounded."""

    def product(self, x: Rounded, y: Rounded, factor: float, name: str) -> Value:
        """`factor x y`, [..., N, K] by [..., K, M]; sums are of integers where both have grids.

        One that is the same for every image has a batch of 1.
        """
