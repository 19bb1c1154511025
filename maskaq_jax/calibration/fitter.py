"""What every fit of layers works with: settings, variables while they are changed, and what a layer
takes and gives.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import quantizers, schema
from maskaq_jax.calibration import second_order
from maskaq_jax.calibration.equalization import Equalization, choose_equalization
from maskaq_jax.models import layers
from maskaq_jax.models.self_attention import tokens_of
from maskaq_jax.schema import NonNegativeFloat, PositiveFraction, PositiveInt


@dataclasses.dataclass(frozen=True)
class CalibrationSettings:
    """How Q's first quantizers are found, and what becomes of its weights.

    Attributes:
      ranges: 'lsq', the paper's formula, which leaves P's weights as they are and reads none of the
        fields below; or 'least_squares', with which every layer is fitted as they say.
      num_views: images that layers are fitted to: the samples, and then random crops and flips of
        them. More of them are fitted less to the rounding noise of their own.
      equalize_norms: whether norms take a shift and a factor of each channel.
      equalize_hidden: whether the hidden features of an MLP get a factor each.
      equalize_attention: whether queries, keys and values get factors, in the kernel before them.
      correct_bias: whether biases take up the mean error.
      second_order: whether kernels are rounded by second order, else each weight to the nearest.
      ridge: how near a kernel stays to P's while it is fitted to P's outputs; 0 fits none.
      damping: of second-order rounding.
      num_searched: rows that equalizations are chosen by.
    """

    ranges: Literal["lsq", "least_squares"] = "lsq"
    num_views: PositiveInt = 192
    equalize_norms: bool = True
    equalize_hidden: bool = True
    equalize_attention: bool = schema.added(True)
    correct_bias: bool = True
    second_order: bool = True
    ridge: NonNegativeFloat = 4.0
    damping: PositiveFraction = 0.1
    num_searched: PositiveInt = 1024

    @property
    def fits(self) -> bool:
        """Whether layers are fitted."""
        return self.ranges == "least_squares"


# The path of the module that shows an activation, and what it is there.
ActivationName = tuple[tuple[str, ...], str]


class Rows(NamedTuple):
    """A layer's rows.

    Attributes:
      inputs: [T, in], as they come or rounded.
      outputs: [T, out] that a dense layer is to give; None for what the inputs give.
    """

    inputs: Array
    outputs: Array | None


@dataclasses.dataclass
class Tree:
    """Variables by flat paths, while they are being changed."""

    params: dict[tuple[str, ...], Any]
    quant: dict[tuple[str, ...], Any]

    def below(self, path: tuple[str, ...]) -> "Tree":
        """Those of a part."""
        depth = len(path)
        return Tree(
            *(
                {name[depth:]: value for name, value in tree.items() if name[:depth] == path}
                for tree in (self.params, self.quant)
            )
        )

    def update(self, path: tuple[str, ...], part: "Tree") -> None:
        """Puts a part back."""
        self.params |= {(*path, *name): value for name, value in part.params.items()}
        self.quant |= {(*path, *name): value for name, value in part.quant.items()}

    def nested(self) -> dict[str, Any]:
        """As modules take them."""
        return {
            "params": flax.traverse_util.unflatten_dict(self.params),
            "quant": flax.traverse_util.unflatten_dict(self.quant),
        }


@dataclasses.dataclass(frozen=True)
class Fitter:
    """Chooses what the variables of a layer are, or of the layers below a part of the model."""

    quantization: layers.Quantization
    settings: CalibrationSettings
    key: Array

    def below(self, path: tuple[str, ...]) -> "Fitter":
        """That of what lies there, with the bits that it has."""
        return dataclasses.replace(self, quantization=self.quantization.below(*path))

    @property
    def rounds_activations(self) -> bool:
        """Whether there are activations to choose ranges for."""
        return layers.rounds_activations(self.quantization)

    def quantizer(
        self, values: Array, importance: Array | None = None
    ) -> quantizers.ActivationQuantizer:
        """The range of least squares of an activation."""
        bits = self.quantization.activation_bits
        return quantizers.least_squares_activation_quantizer(values, bits, importance)

    def sample(self, rows: Array) -> Array:
        """Some of the rows."""
        count = min(len(rows), self.settings.num_searched)
        return rows[jax.random.choice(self.key, len(rows), (count,), replace=False)]

    def equalization(self, inputs: Array, kernel: Array, **options: Any) -> Equalization:
        """Chosen on a sample of the rows."""
        return choose_equalization(
            self.sample(inputs),
            kernel,
            self.quantization.weight_bits,
            self.quantization.activation_bits,
            **options,
        )

    def kernel(
        self, kernel: Array, bias: Array | None, rows: Rows, damping: float, ridge: float
    ) -> tuple[Array, Array | None, Array | None]:
        """A layer's kernel on its grid, its bias, and the steps of the grid."""
        corrects = self.settings.correct_bias and bias is not None
        offset = jnp.zeros(kernel.shape[-1]) if bias is None else bias
        wanted = rows.inputs @ kernel + offset[None] if rows.outputs is None else rows.outputs
        if not corrects:
            wanted = wanted - offset[None]
        statistics = _statistics(rows.inputs, wanted, corrects)
        if ridge and rows.outputs is not None:
            kernel = second_order.fit_kernel(kernel, statistics.gram, statistics.moments, ridge)
        steps = None
        if layers.rounds_weights(self.quantization):
            kernel, steps = self._round(kernel, statistics.gram, damping)
        if corrects:
            bias = statistics.mean_output - statistics.mean_input @ kernel
        return kernel, bias, steps

    def _round(self, kernel: Array, gram: Array, damping: float) -> tuple[Array, Array]:
        bits = self.quantization.weight_bits
        steps = quantizers.least_squares_weight_steps(kernel, bits, jnp.diagonal(gram))
        if self.settings.second_order:
            return second_order.round_kernel(kernel, gram, steps, bits, damping), steps
        grid = quantizers.WeightQuantizer(steps)
        return quantizers.quantize_weight_to_grid(kernel, grid, bits), steps


class Statistics(NamedTuple):
    """Of a layer's rows.

    Attributes:
      gram: [in, in] mean of `x x^T`.
      moments: [in, out] mean of `x y^T`.
      mean_input: [in].
      mean_output: [out].
    """

    gram: Array
    moments: Array
    mean_input: Array
    mean_output: Array


@functools.partial(jax.jit, static_argnames="is_centred")
def _statistics(inputs: Array, outputs: Array, is_centred: bool) -> Statistics:
    """Moments of rows; about their means if centred."""
    mean_input, mean_output = inputs.mean(axis=0), outputs.mean(axis=0)
    if is_centred:
        inputs, outputs = inputs - mean_input[None], outputs - mean_output[None]
    count = len(inputs)
    return Statistics(
        inputs.T @ inputs / count, inputs.T @ outputs / count, mean_input, mean_output
    )


def store(
    own: Tree,
    path: tuple[str, ...],
    kernel: Array,
    bias: Array | None,
    steps: Array | None,
) -> None:
    """Puts a layer's kernel back, its bias and the steps of its grid where there are some."""
    own.params[(*path, "kernel")] = kernel
    if bias is not None:
        own.params[(*path, "bias")] = bias
    if steps is not None:
        own.quant[(*path, "kernel")] = quantizers.WeightQuantizer(steps)


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def observe(
    module: nn.Module,
    variables: Mapping[str, Any],
    x: Array | tuple[Array, ...],
    path: tuple[str, ...],
    name: str,
    method: str | None = None,
) -> Array:
    """An activation of a module, flat: [T, C]. What comes after it is not computed.

    Quantizers that are not chosen yet are made up on the way: they lie behind it.
    """
    _, state = module.apply(variables, x, mutable=["quant", "intermediates"], method=method)
    return _activation(state["intermediates"], path, name)


@functools.partial(jax.jit, static_argnums=(0, 3))
def observe_each(
    module: nn.Module,
    variables: Mapping[str, Any],
    x: Array,
    names: frozenset[ActivationName],
) -> tuple[dict[ActivationName, Array], Array]:
    """Several activations of a part, by path and name, as `observe` gives one; and its tokens."""
    result, state = module.apply(variables, x, mutable=["intermediates"])
    shown = {(path, name): _activation(state["intermediates"], path, name) for path, name in names}
    return shown, tokens_of(result)


def _activation(intermediates: Any, path: tuple[str, ...], name: str) -> Array:
    """One of those that the layers of a module show, flat."""
    node = intermediates
    for step in (*path, name):
        node = node[step]
    (values,) = node
    return values.reshape(-1, values.shape[-1])
