"""A low-bit model in one safetensors file: packed codes, steps, zero points, and what stays float.

Tensors are called as variables are, `params/blocks_0/norm1/scale`. In the place of a kernel that is
rounded, `params/blocks_0/attn/qkv/kernel`, there are

    kernel.codes   [bits ceil(size / 8)] uint8 (`packing`)
    kernel.step    [out] float32; a code c stands for `c * step` of its output channel
    kernel.span    [out] float32, where steps follow from the largest weights (`quantizers.codes`)

`quant/.../step` and `zero_point` are those of `quantizers.ActivationQuantizer`. The file's metadata
has an entry `maskaq_jax`, JSON: the model as `models.create_model` takes it, its quantization, and
the shapes of kernels.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskaq_jax import __version__, models
from maskaq_jax.export import packing, trees
from maskaq_jax.export.metadata import ENTRY
from maskaq_jax.models import Model, Quantization, shapes
from maskaq_jax.quantizers import WeightCodes
from maskaq_jax.storage import checked_arrays


def write_packed(path: Path, model: Model, variables: Any) -> None:
    """Writes a model that `load_packed` gives back.

        >>> write_packed(Path("model.safetensors"), quantized.model, quantized.variables)

    Args:
      path: of the file.
      model: Q.
      variables: its `params` and `quant`.

    Raises:
      OSError: it can't be written.
    """
    variables = jax.device_get(variables)
    stored: dict[str, np.ndarray] = {}
    kernels: dict[str, list[int]] = {}
    for name, leaf in trees.by_name(variables).items():
        collection, *modules, last = name.split("/")
        kernel = None
        if (collection, last) == ("params", trees.KERNEL):
            kernel = trees.kernel_codes(model, variables, tuple(modules))
        if kernel is None:
            stored[name] = np.asarray(leaf)
            continue
        kernels[name] = list(leaf.shape)
        stored[f"{name}.codes"] = packing.pack(np.asarray(kernel.codes), kernel.bits)
        stored[f"{name}.step"] = np.asarray(kernel.step)
        if kernel.span is not None:
            stored[f"{name}.span"] = np.asarray(kernel.span)
    quantization = model.quantization and dataclasses.asdict(model.quantization)
    entry = {
        "version": __version__,
        "model": models.description(model),
        "quantization": quantization,
        "kernels": kernels,
    }
    checked_arrays.write_arrays(path, stored, {ENTRY: json.dumps(entry)})


def load_packed(path: str | os.PathLike[str]) -> tuple[Model, Any]:
    """The model and variables of a file that `write_packed` wrote.

        >>> model, variables = maskaq_jax.export.load_packed("model.safetensors")
        >>> logits, out = model.apply(variables, images)

    Kernels are such that the model rounds them to the values that it rounded them to before, bit
    for bit; all else is as it was.

    Args:
      path: of the file.

    Returns:
      Q and its variables, `params` and `quant`.

    Raises:
      OSError: there is no such file, or it is damaged.
      ValueError: it is another kind of file, or of another version.
    """
    path = Path(path)
    metadata = checked_arrays.read_metadata(path)
    if ENTRY not in metadata:
        raise ValueError(f"{path} is no model of maskaq_jax: it has no metadata {ENTRY!r}")
    stored = checked_arrays.read_arrays(path)
    try:
        entry = json.loads(metadata[ENTRY])
        fields = entry["quantization"]
        quantization = None if fields is None else Quantization(**fields)
        described = entry["model"]
        model = models.create_model(
            described["name"], described["num_classes"], quantization, **described["arguments"]
        )
        template = shapes.variable_shapes(model)
        leaves = {
            name: _kernel(stored, name, leaf.shape, model)
            if f"{name}.codes" in stored
            else _plain(stored, name, leaf)
            for name, leaf in trees.by_name(template).items()
        }
        if stored:
            raise ValueError(f"the model has no {min(stored)}")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} was written by another version of maskaq_jax, or for another model: {error}"
        ) from error
    structure = jax.tree.structure(template)
    return model, jax.tree.unflatten(structure, leaves.values())


def _plain(stored: dict[str, np.ndarray], name: str, expected: jax.ShapeDtypeStruct) -> jax.Array:
    """What the file has as it is, taken out of what is stored."""
    array = stored.pop(name)
    if (array.shape, array.dtype) != (expected.shape, expected.dtype):
        raise ValueError(
            f"{name} is {array.dtype} {array.shape}, and {expected.dtype} {expected.shape} there"
        )
    return jnp.asarray(array)


def _kernel(
    stored: dict[str, np.ndarray], name: str, shape: tuple[int, ...], model: Model
) -> jax.Array:
    """A kernel that is rounded to the codes of the file, taken out of what is stored."""
    quantization = trees.quantization_of(model, tuple(name.split("/")[1:-1]))
    if quantization is None:
        raise ValueError(f"there are codes of {name}, which is not rounded")
    bits = quantization.weight_bits
    codes = packing.unpack(stored.pop(f"{name}.codes"), bits, shape)
    span = stored.pop(f"{name}.span", None)
    return WeightCodes(
        jnp.asarray(codes),
        jnp.asarray(stored.pop(f"{name}.step")),
        None if span is None else jnp.asarray(span),
        bits,
    ).weight()
