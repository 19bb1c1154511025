"""Fits a low-bit model to P in closed form, layer by layer.

Source: `docs/method.md` section 6. Of each layer, in the order of a pass: its input, which the
quantized layers before it give, is equalized where something before it can take that up, and gets
the range of least squared error; its kernel is fitted to the outputs that P has there and rounded
by second order; the bias takes up what is left of the mean. Two streams of tokens go along: those
of P and those of Q so far.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import quantizers
from maskaq_jax.calibration import attention, neck
from maskaq_jax.calibration.fitter import (
    ActivationName,
    CalibrationSettings,
    Fitter,
    Rows,
    Tree,
    observe,
    observe_each,
    store,
)
from maskaq_jax.devices import arrays
from maskaq_jax.devices.keys import named_key
from maskaq_jax.models import Model, full_precision, layers
from maskaq_jax.models.self_attention import tokens_of
from maskaq_jax.models.sites import EMBEDDING, Part, Site

# A classifier has a row an image to be fitted to, where other layers have one a token.
_LEAST_HEAD_DAMPING = 0.1


def fit(
    model: Model,
    params: Any,
    images: Array,
    settings: CalibrationSettings,
    key: Array,
    on_part: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Q's variables, fitted to P on images.

    Memory: what the layers of the widest block give for all images, and its tokens twice.

    Blocks and classifiers are fitted; a neck that reads several maps, and the heads behind it, get
    ranges of least squares on some of the images, and their kernels are rounded to the nearest.

        >>> settings = CalibrationSettings(ranges="least_squares")
        >>> variables = fit(model, params, images, settings, jax.random.key(0))
        >>> logits, out = model.apply(variables, images)

    Args:
      model: Q, whose quantization keeps grids.
      params: P's weights.
      images: [B, height, width, channels] float32, normalised.
      settings: what is chosen.
      key: of the rows that equalizations are chosen by.
      on_part: called behind each part of the model, as to show progress or to stop.

    Returns:
      `params`, equalized and fitted, their kernels on their grids, and `quant`.

    Raises:
      ValueError: the model's quantization keeps no grids.
      FloatingPointError: something came out NaN or infinite.
    """
    if model.quantization is None or not model.quantization.keeps_grids:
        raise ValueError("calibration.fit needs a model whose quantization keeps grids")
    model_p = full_precision(model)
    fitter = Fitter(model.quantization, settings, named_key(key, "calibration rows"))
    flat = flax.traverse_util.flatten_dict(params)
    variables = Tree(dict(flat), {})
    _fit_embedding(fitter, model, variables, images)
    tokens_p = _apply(model_p, {"params": params}, images, "embed")
    tokens_q = _apply(model, variables.nested(), images, "embed")
    maps_p, maps_q = list[Array](), list[Array]()
    for part, part_p in zip(model.parts(), model_p.parts(), strict=True):
        own = variables.below(part.path)
        own_p = Tree(dict(flat), {}).below(part.path).nested()
        shown_p, next_p = observe_each(part_p.module, own_p, tokens_p, _shown(part))
        _fit_part(fitter.below(part.path), part, own, shown_p, tokens_q, tokens_p)
        variables.update(part.path, own)
        tokens_p = next_p
        tokens_q = _tokens(part.module, own.nested(), tokens_q)
        if part.is_read:
            maps_p.append(tokens_p)
            maps_q.append(tokens_q)
        on_part()
    if maps_p:
        neck.choose(fitter, model, variables, params, maps_q, maps_p)
    else:
        _fit_head(fitter, model, variables, params, tokens_q, tokens_p)
    fitted = variables.nested()
    if not arrays.is_finite(fitted):
        raise FloatingPointError(
            "fitting the layers gave NaN or infinite values: raise config.calibration.damping or "
            "num_views"
        )
    return fitted


def fit_site(
    site: Site,
    quantization: layers.Quantization,
    params: Any,
    rows: Rows,
    settings: CalibrationSettings,
    key: Array,
) -> dict[str, Any]:
    """The variables of a part in which one site alone is rounded and fitted, by what P has there.

    Args:
      site: of the part; or of the whole model, its embedding or a classifier.
      quantization: the site's own bits; one that keeps grids.
      params: P's, of the part or of the model.
      rows: of the site in P.
      settings: what is chosen.
      key: as of `fit`.

    Returns:
      `params`, with the site's kernel, bias and norm changed, and `quant` of the site.
    """
    fitter = Fitter(quantization, settings, named_key(key, "calibration rows"))
    own = Tree(flax.traverse_util.flatten_dict(params), {})
    if site.path == EMBEDDING:
        _fit_projection(fitter, own, rows.inputs)
    elif site.is_dense:
        _fit_dense(fitter, site, own, rows)
    else:
        own.quant[(*site.path, site.name)] = fitter.quantizer(rows.inputs)
    return own.nested()


def settings_of_heads(settings: CalibrationSettings) -> CalibrationSettings:
    """The settings by which classifiers are fitted."""
    damping = max(settings.damping, _LEAST_HEAD_DAMPING)
    return dataclasses.replace(settings, ridge=0.0, damping=damping)


def _fit_embedding(fitter: Fitter, model: Model, variables: Tree, images: Array) -> None:
    """Rounds the kernel of the patch embedding, whose input stays as it is."""
    model_p = full_precision(model)
    inputs = observe(model_p, variables.nested(), images, EMBEDDING, "input", "embed")
    _fit_projection(fitter.below(EMBEDDING), variables, inputs)


def _fit_projection(fitter: Fitter, variables: Tree, inputs: Array) -> None:
    """Rounds the kernel of the patch embedding, by its inputs of any shape."""
    kernel = variables.params[(*EMBEDDING, "kernel")]
    bias = variables.params.get((*EMBEDDING, "bias"))
    flat = kernel.reshape(-1, kernel.shape[-1])
    rows = Rows(inputs.reshape(-1, len(flat)), None)
    fitted, new_bias, steps = fitter.kernel(flat, bias, rows, fitter.settings.damping, ridge=0.0)
    store(variables, EMBEDDING, fitted.reshape(kernel.shape), new_bias, steps)


def _fit_part(
    fitter: Fitter,
    part: Part,
    own: Tree,
    shown_p: Mapping[ActivationName, Array],
    tokens_q: Array,
    tokens_p: Array,
) -> None:
    """Fits the sites of a part, in order."""
    for site in part.sites:
        fitter_of_site = fitter.below(site.layer)
        if site.is_dense:
            inputs = observe(part.module, own.nested(), tokens_q, site.path, "input")
            outputs = shown_p[site.path, "output"]
            if site.adds_to:
                outputs = outputs + _stream_gap(part, own, site, shown_p, tokens_q, tokens_p)
            _fit_dense(fitter_of_site, site, own, Rows(inputs, outputs))
        elif fitter_of_site.rounds_activations:
            if fitter.settings.equalize_attention:
                _equalize_operand(fitter_of_site, part, own, site, shown_p)
            values = observe(part.module, own.nested(), tokens_q, site.path, site.name)
            own.quant[(*site.path, site.name)] = fitter_of_site.quantizer(values)


def _shown(part: Part) -> frozenset[ActivationName]:
    """What a fit of a part reads of P."""
    outputs = {(site.path, "output") for site in part.sites if site.is_dense}
    streams = {((), site.adds_to) for site in part.sites if site.adds_to not in ("", "input")}
    averages = {((*site.path, "proj"), "input") for site in part.sites if site.name == "value"}
    return frozenset(outputs | streams | averages)


def _equalize_operand(
    fitter: Fitter,
    part: Part,
    own: Tree,
    site: Site,
    shown_p: Mapping[ActivationName, Array],
) -> None:
    """Equalizes queries with keys, or values, in the kernel that all come from."""
    joint = (*site.path, "qkv")
    if (*joint, "kernel") not in own.params:
        return
    has_norm = (*site.path, "q_norm", "scale") in own.params  # which would undo it
    if site.name == "query" and not has_norm:
        module: Any = part.module
        rows = fitter.sample(shown_p[joint, "output"])
        query, key, _ = jnp.split(rows, 3, axis=1)
        bits = fitter.quantization.activation_bits
        factor = attention.choose_query_factor(query, key, module.num_heads, bits)
        _scale_outputs(own, joint, jnp.concatenate([1 / factor, factor, jnp.ones_like(factor)]))
    elif site.name == "value":
        behind = (*site.path, "proj")
        _equalize_values(fitter, own, joint, behind, shown_p[behind, "input"])


def _equalize_values(
    fitter: Fitter,
    own: Tree,
    joint: tuple[str, ...],
    behind: tuple[str, ...],
    averaged: Array,
) -> None:
    """Equalizes values, and so what they are averaged to, the input of the kernel behind."""
    kernel = own.params[(*behind, "kernel")]
    has_bias = (*joint, "bias") in own.params and (*behind, "bias") in own.params
    shifts = ("none", "mean", "middle") if has_bias else ("none",)
    spreads = ("range", "rms", "largest")
    change = fitter.equalization(averaged, kernel, shifts=shifts, spreads=spreads)
    if has_bias:
        bias = own.params[(*joint, "bias")]
        own.params[(*joint, "bias")] = bias.at[-len(kernel) :].add(-change.shift)
        behind_bias = (*behind, "bias")
        own.params[behind_bias] = own.params[behind_bias] + change.shift @ kernel
    ones = jnp.ones(2 * len(kernel))
    _scale_outputs(own, joint, jnp.concatenate([ones, 1 / change.factor]))
    own.params[(*behind, "kernel")] = change.factor[:, None] * kernel


def _scale_outputs(own: Tree, path: tuple[str, ...], factor: Array) -> None:
    """Multiplies the output channels of a dense layer; codes of its kernel stay."""
    own.params[(*path, "kernel")] = own.params[(*path, "kernel")] * factor[None]
    if (*path, "bias") in own.params:
        own.params[(*path, "bias")] = own.params[(*path, "bias")] * factor
    if (*path, "kernel") in own.quant:
        own.quant[(*path, "kernel")] = quantizers.WeightQuantizer(
            own.quant[(*path, "kernel")].step * factor
        )


def _fit_head(
    fitter: Fitter,
    model: Model,
    variables: Tree,
    params: Any,
    tokens_q: Array,
    tokens_p: Array,
) -> None:
    """Fits the classifiers, and the pooling before them where it has layers of its own."""
    fitter = dataclasses.replace(fitter, settings=settings_of_heads(fitter.settings))
    for site in model.head_sites():
        fitter_of_site = fitter.below(site.layer)
        if not site.is_dense:
            if fitter_of_site.rounds_activations:
                values = observe(
                    model, variables.nested(), tokens_q, site.path, site.name, "classify"
                )
                variables.quant[(*site.path, site.name)] = fitter_of_site.quantizer(values)
            continue
        inputs = observe(model, variables.nested(), tokens_q, site.path, "input", "classify")
        outputs = observe(
            full_precision(model), {"params": params}, tokens_p, site.path, "output", "classify"
        )
        _fit_dense(fitter_of_site, site, variables, Rows(inputs, outputs))


def _fit_dense(fitter: Fitter, site: Site, own: Tree, rows: Rows) -> None:
    """Fits a dense layer: its norm, the range of its input, its kernel and bias."""
    inputs = rows.inputs
    kernel = own.params[(*site.path, "kernel")]
    bias = own.params.get((*site.path, "bias"))
    if fitter.rounds_activations:
        change = None
        if site.norm and fitter.settings.equalize_norms:
            shifts = ("none", "mean", "middle") if bias is not None else ("none",)
            change = fitter.equalization(inputs, kernel, shifts=shifts)
            scale, shift = (*site.norm, "scale"), (*site.norm, "bias")
            own.params[scale], own.params[shift] = change.in_norm(
                own.params[scale], own.params[shift]
            )
        elif site.has_factor and fitter.settings.equalize_hidden:
            change = fitter.equalization(
                inputs, kernel, shifts=("none",), spreads=("largest", "rms")
            )
        if site.has_factor:
            factor = jnp.ones(len(kernel)) if change is None else 1 / change.factor
            own.quant[(*site.path, "input_factor")] = factor
        if change is not None:
            inputs = change.apply(inputs)
            if bias is not None:
                bias = bias + change.shift @ kernel
            kernel = change.factor[:, None] * kernel
        quantizer = fitter.quantizer(inputs, jnp.square(kernel).sum(axis=1))
        own.quant[(*site.path, "input")] = quantizer
        inputs = quantizers.quantize_activation(
            inputs, quantizer, fitter.quantization.activation_bits
        )
    rows = rows._replace(inputs=inputs)
    fitted = fitter.kernel(kernel, bias, rows, fitter.settings.damping, fitter.settings.ridge)
    store(own, site.path, *fitted)


def _stream_gap(
    part: Part,
    own: Tree,
    site: Site,
    shown_p: Mapping[ActivationName, Array],
    tokens_q: Array,
    tokens_p: Array,
) -> Array:
    """[T, C] what the layer's output must add so that Q's tokens come to be P's."""
    if site.adds_to == "input":
        module: Any = part.module
        gap = module.attention_rows(tokens_p - tokens_q)
    else:
        stream_q = observe(part.module, own.nested(), tokens_q, (), site.adds_to)
        gap = shown_p[(), site.adds_to] - stream_q
    scale = own.params.get(site.scale)
    return gap if scale is None else gap / scale[None]


@functools.partial(jax.jit, static_argnums=(0, 3))
def _apply(module: nn.Module, variables: Mapping[str, Any], x: Array, method: str) -> Array:
    tokens: Any = module.apply(variables, x, method=method)
    return tokens


@functools.partial(jax.jit, static_argnums=0)
def _tokens(module: nn.Module, variables: Mapping[str, Any], x: Array) -> Array:
    """What a part makes of tokens."""
    result: Any = module.apply(variables, x)
    return tokens_of(result)
