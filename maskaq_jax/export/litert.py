"""A low-bit model as one LiteRT file (`.tflite`), for phones and small devices.

Needs the `litert` extra, and no TensorFlow. The network is traced with its rounding as composites
`quant.fake_quant`, and LiteRT's converter reads the text that `jax.export` makes of it. In its
strict mode a product is one of integers where both of its sides and its own output are rounded:
queries, keys, values, and what attention finds. Others keep their weights in integers and compute
with floats, as Q's outputs there are not on a grid.

- Weights of 2 to 4 bits are INT4, those of 5 to 8 bits INT8, with a step an output channel.
- Activations have 8 bits or are not rounded: LiteRT has no others.
- The batch is 1, as is usual there.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from maskaq_jax.data.preprocessing import Preprocessing
from maskaq_jax.export import integers, metadata, networks
from maskaq_jax.export.formats import Input
from maskaq_jax.export.integers import IntegerOperators
from maskaq_jax.export.operators import Kernel, Rounded
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import Model
from maskaq_jax.quantizers import ByteGrid, WeightCodes
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import whole_files

OUTPUT = "logits"
_SIGNATURE = "serving_default"
# Bytes less this are int8.
_MIDDLE = 128
_LEVELS_OF_A_BYTE = 256
_MOST_BITS_OF_INT4 = 4


def write_litert(
    path: Path,
    model: Model,
    variables: Any,
    pixels: Pixels,
    preprocessing: Preprocessing,
    input_name: Input = "pixel_values",
) -> None:
    """Writes the file.

    Args:
      path: of the file.
      model: Q, or a model in full precision.
      variables: its `params` and `quant`.
      pixels: how its inputs are normalised.
      preprocessing: how its pictures are prepared, for whoever reads the file's metadata.
      input_name: what the file takes: `pixel_values` [1, C, H, W] float32, normalised, or `pixels`
        [1, H, W, C] uint8, which is made grey where the model knows no colours.

    Raises:
      ConfigError: the model has something that the file can't express.
      OSError: it can't be written.
    """
    whole_files.write_bytes(path, build(model, variables, pixels, preprocessing, input_name))


def build(
    model: Model,
    variables: Any,
    pixels: Pixels,
    preprocessing: Preprocessing,
    input_name: Input = "pixel_values",
) -> bytes:
    """The content of the file; arguments and errors as of `write_litert`."""
    variables = jax.device_get(variables)
    height, width, channels = model.input_shape

    def compute(taken: Array) -> Array:
        images = pixels.from_bytes(taken) if input_name == "pixels" else taken.transpose(0, 2, 3, 1)
        return networks.outputs(LitertOperators(), model, variables, images)

    taken = (
        jax.ShapeDtypeStruct((1, height, width, channels), jnp.uint8)
        if input_name == "pixels"
        else jax.ShapeDtypeStruct((1, channels, height, width), jnp.float32)
    )
    text = jax.export.export(jax.jit(compute))(taken).mlir_module()
    described = metadata.description(model, pixels, preprocessing, input_name)
    return _convert(text, input_name, json.dumps(described))


def _convert(text: str, input_name: str, described: str) -> bytes:
    """The text of a StableHLO module -> a file of LiteRT's."""
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager

    context = ir.Context()
    converter.prepare_mlir_context(context)
    with context:
        # Of its bytes, as `jax.export` stores them, the converter crashes.
        module = ir.Module.parse(text)
        settings = converter.ConvertToTFLConfig()
        # Both, or a model with any float operator computes with floats alone.
        settings.qdq_conversion_mode, settings.strict_qdq_mode = "STATIC", True
        converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), settings)
        converter.set_signature(module.operation, _SIGNATURE, [input_name], [OUTPUT])
        entries = {metadata.ENTRY: ir.StringAttr.get(described)}
        module.operation.attributes["tfl.metadata"] = ir.DictAttr.get(entries)
        content: bytes = converter.export_flatbuffer_to_bytes(module.operation)
    return content


class LitertOperators(IntegerOperators):
    """Operators whose rounded values are floats on their grid, marked for the converter.

    They are marked where they are rounded and once more in products: what is moved in between
    stays a byte then.
    """

    def patches(
        self, images: Array, kernel: Kernel, name: str, padding: tuple[int, int] = (0, 0)
    ) -> Array:
        del name
        patch, _, channels, _ = kernel.shape
        rows = integers.cut_patches(images, patch, padding).swapaxes(2, 3)
        rows = rows.reshape(rows.shape[0], -1, patch * patch * channels)
        return self._with_bias(_times(rows, kernel), kernel.bias)

    def quantize(self, x: Array, grid: ByteGrid | None, name: str) -> Rounded:
        if grid is None:
            return Rounded(x, None)
        if grid.highest - grid.lowest + 1 != _LEVELS_OF_A_BYTE:
            bits = (grid.highest - grid.lowest).bit_length()
            raise ConfigError(
                f"--format=litert takes activations of 8 bits, or of 32 for none: {name} has "
                f"{bits} (--format=onnx takes all)"
            )
        if not grid.excess:
            return Rounded(_on_grid(x, grid), grid)
        # No byte stands for 0: the grid is moved to where one does, and its values back.
        offset = jnp.float32(grid.excess * grid.step)
        return Rounded(_on_grid(x - offset, grid) + offset, None)

    def dense(self, x: Rounded, kernel: Kernel, name: str) -> Array:
        del name
        return self._with_bias(_times(_again(x), kernel), kernel.bias)

    def product(self, x: Rounded, y: Rounded, factor: float, name: str) -> Array:
        del name
        products = _again(x) @ _again(y)
        return products if factor == 1 else products * jnp.float32(factor)


def _again(x: Rounded) -> Array:
    values: Array = x.value
    return values if x.grid is None else _on_grid(values, x.grid)


def _times(x: Array, kernel: Kernel) -> Array:
    """[..., in] by [..., in, out]; the converter takes weights with output channels first."""
    if kernel.codes is None:
        weight = jnp.asarray(kernel.values())
        return x @ weight.reshape(-1, weight.shape[-1])
    weight = _weight_on_grid(kernel.codes)
    return jax.lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))


def _weight_on_grid(codes: WeightCodes) -> Array:
    """[out, in] values, marked."""
    flat = np.asarray(codes.codes).reshape(-1, codes.step.shape[0]).T
    step, is_int4 = np.asarray(codes.step), codes.bits <= _MOST_BITS_OF_INT4
    return _marked(
        jnp.asarray(flat * step[:, None]),
        lambda x: x,
        scale=step,
        zero_point=np.zeros(step.shape, np.int64),
        dtype="i4" if is_int4 else "i8",
        quantization_dimension=np.int32(0),
    )


def _on_grid(x: Array, grid: ByteGrid) -> Array:
    """Rounded to bytes without excess, and marked."""
    own = grid._replace(excess=0)
    return _marked(
        x,
        lambda x: own.values(own.round(x)),
        scale=np.array([own.step], np.float32),
        zero_point=np.array([own.zero_point - _MIDDLE], np.int64),
        dtype="i8",
    )


def _marked(x: Array, compute: Callable[[Array], Array], **attributes: Any) -> Array:
    """`compute(x)` as the converter knows rounding; the lowest code is used, too."""

    @functools.partial(jax.lax.composite, name="quant.fake_quant")
    def fake_quant(x: Array, **_: Any) -> Array:
        return compute(x)

    rounded: Array = fake_quant(x, narrow_range=False, **attributes)
    return rounded
