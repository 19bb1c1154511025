"""Agreement with P, and divergence from it, where one tensor is rounded; for each tensor in turn.

Source: `docs/method.md` section 7. Up to the rounded tensor the model is P, so a pass starts at
that part of the model, from P's tokens. A rounded weight is another parameter of P's own program; a
rounded activation takes a program of its part, which all blocks that are alike share.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import calibration
from maskaq_jax.calibration import CalibrationSettings, Rows
from maskaq_jax.models import Model, Quantization, full_precision
from maskaq_jax.models.self_attention import tokens_of
from maskaq_jax.models.sites import EMBEDDING, Site
from maskaq_jax.quantizers import FULL_PRECISION_BITS

Kind = Literal["weight", "activation"]


class TensorLoss(NamedTuple):
    """What rounding a tensor loses.

    Attributes:
      layer: dotted name, as rules have it.
      tensor: the layer's weight, or the activation that it takes.
      bits: it is rounded to.
      agreement: share of the images that get P's class, in percent; None without classes.
      divergence: mean of KL(P || Q) over the images; without classes, of 1 - the features' cosine.
    """

    layer: str
    tensor: Kind
    bits: int
    agreement: float | None
    divergence: float


class _Stretch(NamedTuple):
    """A stretch of a model: its embedding, a part, or what follows the last part.

    Attributes:
      path: names that lead to its variables; none for the first and the last, which take all.
      module: that is applied.
      method: of the module.
      sites: what it rounds.
    """

    path: tuple[str, ...]
    module: Any
    method: str
    sites: tuple[Site, ...]

    def own(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Its parameters among all."""
        return functools.reduce(lambda tree, name: tree[name], self.path, params)


class _Tensor(NamedTuple):
    """A tensor to be rounded: a site's weight or activation, at bits below 32."""

    site: Site
    kind: Kind
    bits: int

    def quantization(self, keeps_grids: bool) -> Quantization:
        """The site's, of this tensor alone."""
        full = FULL_PRECISION_BITS
        bits = (self.bits, full) if self.kind == "weight" else (full, self.bits)
        return Quantization(*bits, keeps_grids=keeps_grids)


def measure(
    model: Model,
    params: Any,
    images: Array,
    settings: CalibrationSettings,
    key: Array,
    on_tensor: Callable[[], None] = lambda: None,
) -> list[TensorLoss]:
    """What each tensor loses alone at the model's bits, those that lose most first.

    Memory: all activations of a block, of half of the images.

        >>> settings, key = CalibrationSettings(ranges="lsq"), jax.random.key(0)
        >>> worst, *others = measure(model, params, images, settings, key)
        >>> worst.divergence >= others[-1].divergence
        True

    Args:
      model: Q; tensors of 32 bits are left out.
      params: P's weights.
      images: [B, height, width, channels] float32, normalised; the first half calibrates, the
        second is measured on.
      settings: how ranges are found.
      key: as of `calibration.fit`.
      on_tensor: called behind each tensor, as to show progress.

    Raises:
      ValueError: there are fewer than two images.
    """
    if len(images) < 2:
        raise ValueError(f"two images are needed, to calibrate and to measure, got {len(images)}")
    middle = math.ceil(len(images) / 2)
    seen, measured = images[:middle], images[middle:]
    model_p = full_precision(model)
    stretches = _stretches(model_p)
    outputs_p = _pass(stretches, params, measured)
    losses = []
    for number, stretch in enumerate(stretches):
        own = stretch.own(params)
        next_seen, observed = _observe(stretch.module, own, seen, stretch.method)
        for tensor in _tensors(model, stretch):
            rows = _rows(observed, tensor.site)
            rounded = _round_alone(model_p, number, tensor, own, rows, settings, key)
            outputs = _pass(stretches[number + 1 :], params, rounded(measured))
            agreement, divergence = _compare(outputs_p, outputs, model.num_classes > 0)
            losses.append(
                TensorLoss(
                    ".".join((*stretch.path, *tensor.site.layer)),
                    tensor.kind,
                    tensor.bits,
                    100 * float(agreement) if model.num_classes else None,
                    float(divergence),
                )
            )
            on_tensor()
        seen = next_seen
        measured = _apply(stretch.module, {"params": own}, measured, stretch.method)
    return sorted(losses, key=lambda loss: -loss.divergence)


def count_tensors(model: Model) -> int:
    """How many `measure` rounds."""
    return sum(1 for stretch in _stretches(model) for _ in _tensors(model, stretch))


# Methods of models, before and behind their parts.
_FIRST, _LAST = "embed", "classify"


def _stretches(model: Model) -> list[_Stretch]:
    """A model, as stretches that take one another's outputs."""
    parts = [_Stretch(part.path, part.module, "__call__", part.sites) for part in model.parts()]
    first = _Stretch((), model, _FIRST, (Site(EMBEDDING),))
    return [first, *parts, _Stretch((), model, _LAST, model.head_sites())]


def _tensors(model: Model, stretch: _Stretch) -> Iterator[_Tensor]:
    """Those of a stretch that Q rounds."""
    assert model.quantization is not None
    for site in stretch.sites:
        own = model.quantization.below(*stretch.path, *site.layer)
        if site.is_dense and own.weight_bits != FULL_PRECISION_BITS:
            yield _Tensor(site, "weight", own.weight_bits)
        if site.path != EMBEDDING and own.activation_bits != FULL_PRECISION_BITS:
            yield _Tensor(site, "activation", own.activation_bits)


def _round_alone(
    model_p: Model,
    number: int,
    tensor: _Tensor,
    own: Mapping[str, Any],
    rows: Rows,
    settings: CalibrationSettings,
    key: Array,
) -> Callable[[Array], Array]:
    """A stretch of P in which one tensor is rounded, calibrated on rows of its site."""
    stretch, quantization = _stretches(model_p)[number], tensor.quantization(settings.fits)
    own_settings = calibration.settings_of_heads(settings) if stretch.method == _LAST else settings
    variables = calibration.calibrate_alone(tensor.site, quantization, own, rows, own_settings, key)
    if tensor.kind == "activation":
        layer = ".".join((*stretch.path, *tensor.site.layer))
        full = FULL_PRECISION_BITS
        alone = Quantization(
            full, full, keeps_grids=settings.fits, rules=f"{layer}={full}x{tensor.bits}"
        )
        stretch = _stretches(model_p.clone(quantization=alone))[number]
    return lambda x: _apply(stretch.module, variables, x, stretch.method)


def _pass(stretches: Sequence[_Stretch], params: Any, x: Array) -> Array:
    """What stretches make of what the stretch before them has made."""
    for stretch in stretches:
        x = _apply(stretch.module, {"params": stretch.own(params)}, x, stretch.method)
    return x


def _rows(observed: Mapping[str, Any], site: Site) -> Rows:
    """What a site takes and gives among the activations of its stretch."""
    node = functools.reduce(lambda tree, name: tree[name], site.path, observed)

    def flat(name: str) -> Array:
        (values,) = node[name]
        return values.reshape(-1, values.shape[-1])

    return Rows(flat(site.name), flat("output") if "output" in node else None)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _apply(module: Any, variables: Mapping[str, Any], x: Array, method: str) -> Array:
    return _main_output(module.apply(variables, x, method=method))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _observe(
    module: Any, params: Mapping[str, Any], x: Array, method: str
) -> tuple[Array, Mapping[str, Any]]:
    """The output, and all activations that layers show."""
    result, state = module.apply({"params": params}, x, method=method, mutable=["intermediates"])
    return _main_output(result), state.get("intermediates", {})


def _main_output(result: Any) -> Array:
    """Of a stretch: tokens, or what is compared of the model's outputs."""
    tokens = tokens_of(result)
    return tokens[0] if isinstance(tokens, tuple) else tokens


@functools.partial(jax.jit, static_argnums=2)
def _compare(outputs_p: Array, outputs: Array, are_classes: bool) -> tuple[Array, Array]:
    """[] share of images of the same class, and [] mean divergence."""
    if not are_classes:
        norms = jnp.linalg.norm(outputs_p, axis=-1) * jnp.linalg.norm(outputs, axis=-1)
        cosines = (outputs_p * outputs).sum(axis=-1) / jnp.maximum(norms, 1e-12)
        return jnp.full((), jnp.nan), 1 - cosines.mean()
    is_same = outputs_p.argmax(axis=-1) == outputs.argmax(axis=-1)
    log_p, log_q = jax.nn.log_softmax(outputs_p), jax.nn.log_softmax(outputs)
    divergence = (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()
    # Rounding may leave less than there can be.
    return is_same.mean(), jnp.maximum(divergence, 0.0)
