"""The exported network in JAX, its sums those of integers: what a file's runtime is compared with.

Codes are bytes, products `jax.lax.dot_general` of int8 with int32 sums. What is not rounded is
float32.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from maskaq_jax.export import networks
from maskaq_jax.export.operators import Kernel, Rounded
from maskaq_jax.models import Model, layers, maps
from maskaq_jax.models.layer_norm import LayerNorm
from maskaq_jax.quantizers import ByteGrid

# Bytes less this are int8, as `dot_general` takes them on every device.
_MIDDLE = 128


def apply(model: Model, variables: Any, images: Array, seen: dict[str, Array] | None = None) -> Any:
    """The outputs of a low-bit model by integer products.

    Equal to `model.apply(variables, images)[0]` but for the rounding of float32 sums.

    Args:
      model: Q.
      variables: its `params` and `quant`, which are constants of the computation.
      images: [B, height, width, channels] float32, normalised.
      seen: takes the bytes of every rounded activation, and each product, by name.
    """
    operators = IntegerOperators(seen)
    return networks.outputs(operators, model, jax.device_get(variables), images)


def serialised(model: Model, variables: Any, batch_size: int | None = None) -> bytes:
    """`apply` with these variables as `jax.export` stores it, for serving without this package.

        call = jax.export.deserialize(data).call
        logits = call(images)

    Args:
      model: Q.
      variables: its `params` and `quant`.
      batch_size: None for any.
    """
    from jax import export

    size = batch_size or export.symbolic_shape("batch")[0]
    images = jax.ShapeDtypeStruct((size, *model.input_shape), jnp.float32)
    exported = export.export(jax.jit(lambda x: apply(model, variables, x)))(images)
    return bytes(exported.serialize())


class IntegerOperators:
    """`operators.Operators` of JAX arrays; images are [B, height, width, channels]."""

    def __init__(self, seen: dict[str, Array] | None = None):
        self._seen = seen

    def constant(self, array: np.ndarray) -> Array:
        return jnp.asarray(array)

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        return x.reshape(tuple(shape))

    def transpose(self, x: Array, axes: Sequence[int]) -> Array:
        return x.transpose(tuple(axes))

    def take(self, x: Array, indices: np.ndarray, axis: int) -> Array:
        return jnp.take(x, indices, axis=axis)

    def concatenate(self, x: Sequence[Array], axis: int) -> Array:
        return jnp.concatenate(x, axis)

    def pad(
        self, x: Array, before: Sequence[int], behind: Sequence[int], byte: int | None = None
    ) -> Array:
        widths = tuple(zip(before, behind, strict=True))
        return jnp.pad(x, widths, constant_values=0 if byte is None else byte)

    def resize(self, x: Array, size: tuple[int, int], to: tuple[int, int]) -> Array:
        del size
        return maps.resize_bilinear(x, *to)

    def add(self, x: Array, y: Array) -> Array:
        return x + _of_rank(y, x.ndim)

    def multiply(self, x: Array, y: Array) -> Array:
        return x * _of_rank(y, x.ndim)

    def mean(self, x: Array, axis: int) -> Array:
        return x.mean(axis=axis, keepdims=True)

    def layer_norm(self, x: Array, scale: np.ndarray, bias: np.ndarray, epsilon: float) -> Array:
        variables = {"params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}}
        result: Any = LayerNorm(epsilon).apply(variables, x)
        return result

    def activation(self, x: Array, name: str) -> Array:
        return layers.ACTIVATIONS[name](x)

    def sigmoid(self, x: Array) -> Array:
        return jax.nn.sigmoid(x)

    def softmax(self, x: Array) -> Array:
        return jax.nn.softmax(x)

    def patches(
        self, images: Array, kernel: Kernel, name: str, padding: tuple[int, int] = (0, 0)
    ) -> Array:
        del name
        values = jnp.asarray(kernel.values())
        patch, features = values.shape[0], values.shape[-1]
        rows = cut_patches(images, patch, padding)
        x = jnp.einsum("bhpwqc,pqcf->bhwf", rows, values).reshape(rows.shape[0], -1, features)
        return self._with_bias(x, kernel.bias)

    def quantize(self, x: Array, grid: ByteGrid | None, name: str) -> Rounded:
        if grid is None:
            return Rounded(x, None)
        codes = grid.round(x)
        self._see(name, codes)
        return Rounded(codes, grid)

    def dense(self, x: Rounded, kernel: Kernel, name: str) -> Array:
        if x.grid is None or kernel.codes is None:
            products = _floats(x) @ jnp.asarray(kernel.values())
        else:
            weights = jnp.asarray(kernel.codes.codes)
            sums = _integer_product(x.value, x.grid, weights, 0)
            step = jnp.float32(x.grid.step) * jnp.asarray(kernel.codes.step)
            products = sums.astype(jnp.float32) * _of_rank(step, sums.ndim)
        products = self._with_bias(products, kernel.bias)
        self._see(name, products)
        return products

    def product(self, x: Rounded, y: Rounded, factor: float, name: str) -> Array:
        lead = jnp.broadcast_shapes(x.value.shape[:-2], y.value.shape[:-2])
        x, y = (
            one._replace(value=jnp.broadcast_to(one.value, (*lead, *one.value.shape[-2:])))
            for one in (x, y)
        )
        if x.grid is None or y.grid is None:
            products = _floats(x) @ _floats(y) * jnp.float32(factor)
        else:
            middle = y.grid.zero_point - y.grid.excess - _MIDDLE
            sums = _integer_product(x.value, x.grid, _as_int8(y.value), middle)
            step = jnp.float32(x.grid.step) * jnp.float32(factor) * jnp.float32(y.grid.step)
            products = sums.astype(jnp.float32) * step
        self._see(name, products)
        return products

    def _with_bias(self, x: Array, bias: np.ndarray | None) -> Array:
        return x if bias is None else x + _of_rank(jnp.asarray(bias), x.ndim)

    def _see(self, name: str, x: Array) -> None:
        if self._seen is not None:
            self._seen[name] = x


def cut_patches(images: Array, patch: int, padding: tuple[int, int]) -> Array:
    """[B, height, width, C] -> [B, rows, patch, columns, patch, C], of `Operators.patches`."""
    below, right = padding
    images = jnp.pad(images, ((0, 0), (0, below), (0, right), (0, 0)))
    batch, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    images = images[:, : rows * patch, : columns * patch]
    return images.reshape(batch, rows, patch, columns, patch, channels)


def _integer_product(x: Array, grid: ByteGrid, y: Array, y_zero: int) -> Array:
    """[..., N, M] int32 `sum_k (x_nk - zero) (y_km - y_zero)`, of the grid's zero.

    Args:
      x: [..., N, K] uint8.
      grid: of x.
      y: [..., K, M] int8, or [K, M] of a layer's weights.
      y_zero: what y has for 0.
    """
    zero, count = grid.zero_point - grid.excess - _MIDDLE, x.shape[-1]
    signed = _as_int8(x)
    lead = tuple(range(y.ndim - 2))
    contracted = (((x.ndim - 1,), (y.ndim - 2,)), (lead, lead))
    sums = jax.lax.dot_general(signed, y, contracted, preferred_element_type=jnp.int32)
    columns = y.astype(jnp.int32).sum(axis=-2, keepdims=True)
    sums = sums - zero * columns.reshape((1,) * (sums.ndim - columns.ndim) + columns.shape)
    if not y_zero:
        return sums
    rows = signed.astype(jnp.int32).sum(axis=-1, keepdims=True)
    return sums - y_zero * rows + count * zero * y_zero


def _as_int8(x: Array) -> Array:
    return (x.astype(jnp.int32) - _MIDDLE).astype(jnp.int8)


def _floats(x: Rounded) -> Array:
    return x.value if x.grid is None else x.grid.values(x.value)


def _of_rank(x: Array, ndim: int) -> Array:
    """With axes of length 1 in front."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)
