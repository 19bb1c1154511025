"""A low-bit model as one ONNX file, which a runtime executes with integers.

Needs the `onnx` extra.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
from onnx import TensorProto, helper

from maskaq_jax import __version__
from maskaq_jax.data.preprocessing import Preprocessing
from maskaq_jax.export import file_outputs, metadata, networks
from maskaq_jax.export.formats import Input
from maskaq_jax.export.onnx_operators import OnnxOperators
from maskaq_jax.images.pixels import LUMA, Pixels
from maskaq_jax.models import Model, shapes
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import whole_files

_OPSET, _IR_VERSION = 21, 10
_BATCH = "batch"


def write_onnx(
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
      input_name: what the file takes: `pixel_values` [B, C, H, W] float32, normalised, or `pixels`
        [B, H, W, C] uint8, which is made grey where the model knows no colours.

    Raises:
      ConfigError: the model has something that the file can't express, or is too large for it.
      OSError: it can't be written.
    """
    proto = build(model, variables, pixels, preprocessing, input_name)
    with whole_files.replacing(path) as written, written.open("wb") as file:
        file.write(proto.SerializeToString())


def build(
    model: Model,
    variables: Any,
    pixels: Pixels,
    preprocessing: Preprocessing,
    input_name: Input = "pixel_values",
    shows: bool = False,
) -> onnx.ModelProto:
    """The content of the file.

    Args:
      model, variables, pixels, preprocessing, input_name: as of `write_onnx`.
      shows: whether all rounded activations and all products are outputs too, by their names.

    Raises:
      ConfigError: as of `write_onnx`.
    """
    ops = OnnxOperators()
    height, width, channels = model.input_shape
    if input_name == "pixels":
        taken = _value(input_name, TensorProto.UINT8, (_BATCH, height, width, channels))
        images = _normalised(ops, input_name, pixels)
    else:
        taken = _value(input_name, TensorProto.FLOAT, (_BATCH, channels, height, width))
        images = input_name
    outputs = _emit_outputs(ops, model, jax.device_get(variables), images)
    _check_size(ops)
    if shows:
        outputs += [onnx.ValueInfoProto(name=name) for name in ops.seen]
    graph = helper.make_graph(ops.nodes, "maskaq_jax", [taken], outputs, ops.initializers)
    proto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
    proto.producer_name, proto.producer_version = metadata.ENTRY, __version__
    described = metadata.description(model, pixels, preprocessing, input_name)
    helper.set_model_props(proto, {metadata.ENTRY: json.dumps(described)})
    return proto


def _check_size(ops: OnnxOperators) -> None:
    """Raises ConfigError for arrays, nearly all that a file holds, that are too large for one."""
    size = sum(array.ByteSize() for array in ops.initializers)
    largest = onnx.checker.MAXIMUM_PROTOBUF
    if size >= largest:
        raise ConfigError(
            f"the model's arrays take {size / 1e9:.1f} GB, where one ONNX file holds "
            f"{largest / 1e9:.1f}: use fewer bits, or --format=safetensors, which has no limit"
        )


def _emit_outputs(
    ops: OnnxOperators, model: Model, variables: Any, images: str
) -> list[onnx.ValueInfoProto]:
    """The network, and what the file says of its outputs."""
    found = networks.outputs(ops, model, variables, images)
    arrays, _ = jax.eval_shape(model.apply, variables, shapes.image_shapes(model, 1))
    values = file_outputs.named(found, model.task, lambda x: ops.transpose(x, (0, 3, 1, 2)))
    sizes = file_outputs.named(
        jax.tree.map(lambda array: array.shape, arrays),
        model.task,
        lambda shape: (shape[0], shape[3], *shape[1:3]),
    )
    for name, value in values.items():
        ops.emit("Identity", value, name=name)
    return [_value(name, TensorProto.FLOAT, (_BATCH, *sizes[name][1:])) for name in values]


def _normalised(ops: OnnxOperators, bytes_name: str, pixels: Pixels) -> str:
    """[B, H, W, C] uint8 -> what the model takes, grey where it knows no colours, and then by the
    steps of `Pixels.from_bytes`.
    """
    x = ops.emit("Cast", bytes_name, to=TensorProto.FLOAT)
    if pixels.drops_colours:
        luma = ops.emit("Mul", x, ops.constant(np.array(LUMA, np.float32)))
        luma = ops.emit("ReduceSum", luma, ops.constant(np.array([-1])), keepdims=1)
        x = ops.emit("Floor", ops.emit("Add", luma, ops.constant(np.array(0.5, np.float32))))
    x = ops.emit("Div", x, ops.constant(np.array(255, np.float32)))
    x = ops.emit("Sub", x, ops.constant(np.array(pixels.mean, np.float32)))
    x = ops.emit("Div", x, ops.constant(np.array(pixels.std, np.float32)))
    return ops.transpose(x, (0, 3, 1, 2))


def _value(name: str, kind: int, shape: tuple[int | str, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
