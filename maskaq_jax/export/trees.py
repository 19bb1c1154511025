"""What export reads of a low-bit model's variables."""

import functools
from collections.abc import Mapping
from typing import Any

import jax

from maskaq_jax import models, quantizers
from maskaq_jax.models import Model, Quantization, layers
from maskaq_jax.models.layers import rounds_weights
from maskaq_jax.quantizers import WeightCodes

KERNEL = "kernel"


def quantization_of(model: Model, path: tuple[str, ...]) -> Quantization | None:
    """How the layer at a path is quantized, by the model's bits or a rule of its own."""
    return layers.below(model.quantization, *path)


def kernel_codes(model: Model, variables: Any, path: tuple[str, ...]) -> WeightCodes | None:
    """Codes of a layer's kernel, by the rules of its model; None where it is not rounded.

    Args:
      model: Q.
      variables: its `params` and `quant`.
      path: of the layer.
    """
    quantization = quantization_of(model, path)
    if not rounds_weights(quantization) or ".".join(path) not in _layers(model):
        return None
    kernel, bits = below(variables["params"], path)[KERNEL], quantization.weight_bits
    if quantization.keeps_grids:
        grid = below(variables["quant"], path)[KERNEL]
        return quantizers.weight_codes_on_grid(kernel, grid, bits)
    return quantizers.weight_codes(kernel, bits)


@functools.cache
def _layers(model: Any) -> frozenset[str]:
    """Names of what is rounded; the kernel behind a learned query is none of them."""
    return frozenset(models.layer_names(model))


def below(variables: Any, path: tuple[str, ...]) -> Mapping[str, Any]:
    """The variables of a module by its path; empty where it has none."""
    for name in path:
        variables = variables.get(name, {})
    return variables


def by_name(variables: Any) -> dict[str, Any]:
    """Leaves by their paths, as `params/blocks_0/norm1/scale`."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
