"""Ranges and rounding of a neck that reads several maps, and of the heads behind it.

Ranges are of least squares, and kernels are rounded to the nearest: the inputs of a convolution's
window are too many for a second order. Biases take up the mean error.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import quantizers
from maskaq_jax.calibration.fitter import Fitter, Tree, observe, store
from maskaq_jax.models import Model, full_precision, layers
from maskaq_jax.models.sites import Site

# Of the largest map that a neck reads: eight images of 512 px, with patches of 4.
_MOST_PLACES = 2**17


def choose(
    fitter: Fitter,
    model: Model,
    variables: Tree,
    params: Any,
    maps_q: Sequence[Array],
    maps_p: Sequence[Array],
) -> None:
    """Chooses what lies behind the maps: ranges, kernels on their grids, biases.

    Memory: the widest map of some images, twice.

    Args:
      fitter: of the whole model.
      model: Q.
      variables: its variables, those of all parts fitted; what is chosen is put in.
      params: P's weights.
      maps_q: tokens behind each part that is read, by Q so far.
      maps_p: by P.
    """
    maps_q, maps_p = _some(maps_q), _some(maps_p)
    outputs_p = _observe_outputs(full_precision(model), {"params": params}, maps_p)
    for site in model.head_sites():
        _choose(fitter.below(site.layer), model, site, variables, maps_q)
        bias = (*site.path, "bias")
        if fitter.settings.correct_bias:
            outputs = observe(model, variables.nested(), maps_q, site.path, "output", "classify")
            wanted = functools.reduce(lambda tree, name: tree[name], site.path, outputs_p)
            variables.params[bias] = variables.params[bias] + wanted - outputs.mean(axis=0)


def _some(maps: Sequence[Array]) -> tuple[Array, ...]:
    """Maps of as many images as the ranges of a neck are chosen by."""
    count = max(1, _MOST_PLACES // math.prod(maps[0].shape[1:3]))
    return tuple(x[:count] for x in maps)


def _choose(
    fitter: Fitter, model: Model, site: Site, variables: Tree, maps: tuple[Array, ...]
) -> None:
    """Sets the range of a layer's input and the steps of its kernel, which it rounds."""
    kernel = variables.params[(*site.path, "kernel")]
    inputs = observe(model, variables.nested(), maps, site.path, "input", "classify")
    by_channel = jnp.square(kernel).sum(axis=(*range(kernel.ndim - 2), -1))
    if fitter.rounds_activations:
        variables.quant[(*site.path, "input")] = fitter.quantizer(inputs, by_channel)
    if layers.rounds_weights(fitter.quantization):
        bits = fitter.quantization.weight_bits
        flat = kernel.reshape(-1, kernel.shape[-1])
        # Every place of a convolution's window sees the same channels.
        power = jnp.tile(jnp.square(inputs).mean(axis=0), len(flat) // inputs.shape[-1])
        steps = quantizers.least_squares_weight_steps(flat, bits, power)
        grid = quantizers.WeightQuantizer(steps)
        rounded = quantizers.quantize_weight_to_grid(kernel, grid, bits)
        store(variables, site.path, rounded, None, steps)


@functools.partial(jax.jit, static_argnums=0)
def _observe_outputs(
    model: Model, variables: Mapping[str, Any], maps: tuple[Array, ...]
) -> dict[str, Any]:
    """The mean [out] of each layer's output behind the maps, by the layer's path."""
    _, state = model.apply(variables, maps, mutable=["intermediates"], method="classify")
    flat = flax.traverse_util.flatten_dict(state["intermediates"])
    means = {
        path[:-1]: values[0].reshape(-1, values[0].shape[-1]).mean(axis=0)
        for path, values in flat.items()
        if path[-1] == "output"
    }
    return flax.traverse_util.unflatten_dict(means)
