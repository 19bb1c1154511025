"""Dense and convolution layers that quantize their operands, or don't.

Each layer holds the same `params` in full precision and quantized. A quantized layer adds, in the
`quant` collection, one `ActivationQuantizer` per activation it rounds; it is initialised from the
first tensor seen when the collection is mutable and the quantizer is missing, so one forward pass
calibrates a model with each layer fed by the quantized ones before it (`docs/method.md` section 1).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, TypeGuard

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from maskaq_jax import quantizers, schema
from maskaq_jax.models import rules as rules_lib
from maskaq_jax.models.layer_norm import LayerNorm
from maskaq_jax.schema import NonNegativeFloat

_kernel_init = nn.initializers.xavier_uniform()


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How a model is quantized.

        >>> print(*Quantization(4, 8, rules="blocks_*.mlp.fc2=4x4,head=8x8").parsed_rules)
        blocks_*.mlp.fc2=4x4 head=8x8

    Attributes:
      weight_bits: 2 to 8, or 32 to leave weights alone.
      activation_bits: 2 to 8, or 32 to leave activations alone.
      lsq_grad_scale: factor in the gradient scale of the step sizes.
      keeps_grids: whether kernels keep the steps of their grids, and hidden features a factor a
        channel, in `quant`, as `calibration.fit` chooses them; else the steps follow from each
        channel's largest weight, and there are no factors.
      rules: other bits of some layers, as `blocks_*.mlp.fc2=4x8,head=8x8` (`models/rules.py`);
        empty for none.
    """

    weight_bits: int
    activation_bits: int
    lsq_grad_scale: NonNegativeFloat = 1.0
    keeps_grids: bool = schema.added(False)
    rules: str = schema.added("")

    def __post_init__(self) -> None:
        rules_lib.check_bits(self.weight_bits, self.activation_bits)
        rules_lib.parse(self.rules)

    @property
    def parsed_rules(self) -> tuple[rules_lib.Rule, ...]:
        """The rules, one by one."""
        return rules_lib.parse(self.rules)

    def settled(self, names: Collection[str]) -> "Quantization":
        """The same with the names of layers for the patterns of rules.

        Raises:
          ValueError: a rule matches none of the layers' names, or two contradict each other.
        """
        settled = rules_lib.settle(self.parsed_rules, names)
        return dataclasses.replace(self, rules=rules_lib.join(settled))

    def below(self, *names: str) -> "Quantization":
        """That of a module in the one this is of, by the names that lead to it: its own bits, and
        the rules of what lies in it, relative to it. Modules alike have equal ones.
        """
        if not (self.rules and names):
            return self
        name, *rest = names
        inside = rules_lib.below(self.parsed_rules, name)
        weight_bits, activation_bits = self.weight_bits, self.activation_bits
        for rule in inside:
            if not rule.pattern:
                weight_bits, activation_bits = rule.bits
        own = dataclasses.replace(
            self,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            rules=rules_lib.join(rule for rule in inside if rule.pattern),
        )
        return own.below(*rest)


def below(quantization: Quantization | None, *names: str) -> Quantization | None:
    """`Quantization.below`; None in full precision."""
    return None if quantization is None else quantization.below(*names)


def image_size(img_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of images, from both or from the side of a square."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return height, width


def check_has_classes(name: str, num_classes: int) -> None:
    """Raises ValueError for a detector or segmenter of no classes."""
    if num_classes < 1:
        raise ValueError(f"{name} tells classes apart: num_classes must be 1 or more")


def check_patches(img_size: int, patch_size: int) -> None:
    """Raises ValueError where patches don't cover an image."""
    if img_size % patch_size:
        raise ValueError(
            f"img_size must be a multiple of patch_size, got img_size={img_size} and "
            f"patch_size={patch_size}"
        )


# Beyond what normalised pixels come to, whatever their mean and deviation, and below bytes' 255.
_LARGEST_INPUT = 100.0


def check_images(images: Array, input_shape: tuple[int, int, int]) -> None:
    """Raises ValueError for images of another shape than the model's, or that are not normalised.

    Values are looked at only where there are some: not while a program is traced.
    """
    if images.ndim != 4 or images.shape[1:] != input_shape:
        expected = ", ".join(map(str, input_shape))
        height, width, channels = input_shape
        advice = ""
        if images.ndim == 4 and images.shape[1:] == (channels, height, width):
            advice = ": channels come last, as `images.transpose(0, 2, 3, 1)` has them"
        elif images.shape == input_shape:
            advice = ": a single image is `images[None]`"
        raise ValueError(f"expected images of [B, {expected}], got {images.shape}{advice}")
    is_float = jnp.issubdtype(images.dtype, jnp.floating)
    found = _told_of_values(images) if is_float else str(images.dtype)
    if found:
        raise ValueError(
            f"expected images of floats, normalised as those the model was trained on, got "
            f"{found}: `Pixels(mean, std).from_bytes(images)` makes them of bytes, "
            "`maskaq_jax.read_images(workdir, files)` of picture files"
        )


def _told_of_values(images: Array) -> str:
    """What is wrong with concrete values, if they can't be normalised pixels; else nothing."""
    if isinstance(images, jax.core.Tracer) or not images.size:
        return ""
    # On the host: what a traced program closes over has values, but no operation on it has.
    values = np.asarray(images)
    least, most = float(values.min()), float(values.max())
    if math.isnan(least):
        return "NaN"
    if max(-least, most) > _LARGEST_INPUT:
        return f"values from {least:g} to {most:g}"
    return ""


def rounds_weights(quantization: Quantization | None) -> TypeGuard[Quantization]:
    """Whether a model's weights are quantized."""
    return quantization is not None and quantization.weight_bits != quantizers.FULL_PRECISION_BITS


def rounds_activations(quantization: Quantization | None) -> TypeGuard[Quantization]:
    """Whether a model's activations are quantized."""
    return (
        quantization is not None and quantization.activation_bits != quantizers.FULL_PRECISION_BITS
    )


def quantize_kernel(module: nn.Module, kernel: Array, quantization: Quantization | None) -> Array:
    """Fake-quantizes `module`'s kernel, whose output channels are its last axis."""
    if not rounds_weights(quantization):
        return kernel
    bits = quantization.weight_bits
    if not quantization.keeps_grids:
        return quantizers.quantize_weight(kernel, bits, channel_axis=-1)

    def initialize() -> quantizers.WeightQuantizer:
        flat = kernel.reshape(-1, kernel.shape[-1])
        return quantizers.WeightQuantizer(quantizers.least_squares_weight_steps(flat, bits))

    quantizer = module.variable("quant", "kernel", initialize).value
    return quantizers.quantize_weight_to_grid(kernel, quantizer, bits)


def observe(module: nn.Module, name: str, values: Callable[[], Array]) -> None:
    """Shows an activation to who asks for `intermediates`; calibration does."""
    if module.is_mutable_collection("intermediates"):
        module.sow("intermediates", name, values())


def quantize_operand(
    module: nn.Module, name: str, x: Array, quantization: Quantization | None
) -> Array:
    """Fake-quantizes an activation with `module`'s quantizer called `name`."""
    observe(module, name, lambda: x)
    if not rounds_activations(quantization):
        return x
    rounding = activation_rounding(module, name, lambda: x, quantization)
    return quantizers.quantize_activation(x, *rounding)


class Rounding(NamedTuple):
    """How an activation is rounded: what `quantizers.quantize_*` take behind the values.

    Attributes:
      quantizer: the grid.
      bits: of its codes.
      grad_scale: [] factor on the gradient of the grid's step.
    """

    quantizer: quantizers.ActivationQuantizer
    bits: int
    grad_scale: Array


def activation_rounding(
    module: nn.Module, name: str, values: Callable[[], Array], quantization: Quantization
) -> Rounding:
    """The rounding by `module`'s quantizer called `name`, which `values()` initialise if need be.

    Args:
      module: whose `quant` collection holds the quantizer.
      name: of the quantizer.
      values: called where the quantizer is missing, for the activation it is to round.
      quantization: one that rounds activations.
    """
    bits = quantization.activation_bits

    def initialize() -> quantizers.ActivationQuantizer:
        return quantizers.init_activation_quantizer(values(), bits)

    quantizer = module.variable("quant", name, initialize).value
    grad_scale = quantizers.step_gradient_scale(quantizer, bits, quantization.lsq_grad_scale)
    return Rounding(quantizer, bits, grad_scale)


def _is_calibrating(module: nn.Module) -> bool:
    """Whether the pass initialises quantizers; `calibration` says why that is not compiled."""
    return module.is_mutable_collection("quant")


def traced_once(block: Callable[..., Any], module: nn.Module) -> Callable[..., Any]:
    """A class of blocks, those of one kind traced once; as it is while `module` is calibrated."""
    return block if _is_calibrating(module) else _jitted(block)


# Each result is a class of its own, and traced anew.
@functools.cache
def _jitted(block: Callable[..., Any]) -> Callable[..., Any]:
    return nn.jit(block)


class Dense(nn.Module):
    """Affine layer on the last axis; its input and kernel are quantized.

    Attributes:
      features: output channels.
      quantization: None for full precision.
      dtype: compute dtype.
      use_bias: whether there is a bias.
      has_input_factor: whether, where grids are kept, each input channel has a factor before it is
        rounded: for an input that nothing before it could scale.
    """

    features: int
    quantization: Quantization | None = None
    dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    has_input_factor: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., C] -> [..., features] of `dtype`."""
        kernel = self.param("kernel", _kernel_init, (x.shape[-1], self.features))
        # One flat matrix product: XLA's CPU backend transposes the weight gradient's operands when
        # tokens keep an axis of their own.
        rows = x.reshape(-1, x.shape[-1])
        if self.has_input_factor and rounds_activations(self.quantization):
            rows = self._scaled(rows, self.quantization)
        rows = quantize_operand(self, "input", rows, self.quantization)
        kernel = quantize_kernel(self, kernel, self.quantization)
        rows = rows.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            rows = rows + bias.astype(self.dtype)[None]
        observe(self, "output", lambda: rows)
        return rows.reshape(*x.shape[:-1], self.features)

    def _scaled(self, rows: Array, quantization: Quantization) -> Array:
        """[T, C] times the factor of each channel, whose inverse is in the kernel."""
        if not quantization.keeps_grids:
            return rows
        ones = functools.partial(jnp.ones, rows.shape[-1])
        return rows * self.variable("quant", "input_factor", ones).value[None]


def dense(
    module: Any, features: int, name: str, has_input_factor: bool = False, use_bias: bool = True
) -> Dense:
    """A dense layer of a module, which has its quantization below that name, and its dtype."""
    bits = below(module.quantization, name)
    return Dense(
        *(features, bits, module.dtype, use_bias), has_input_factor=has_input_factor, name=name
    )


class Conv(nn.Module):
    """3 x 3 convolution that keeps a map's size; its input and kernel are quantized.

    The border is padded with zeros behind the rounding.
    """

    features: int
    quantization: Quantization | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, rows, columns, C] -> [B, rows, columns, features] of `dtype`."""
        init = nn.initializers.he_normal()
        kernel = self.param("kernel", init, (3, 3, x.shape[-1], self.features))
        x = quantize_operand(self, "input", x, self.quantization)
        kernel = quantize_kernel(self, kernel, self.quantization)
        x = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = x + bias.astype(self.dtype)[None, None, None]
        observe(self, "output", lambda: x)
        return x


def conv(module: Any, features: int, name: str) -> Conv:
    """A convolution of a module, which has its quantization below that name, and its dtype."""
    return Conv(features, below(module.quantization, name), module.dtype, name=name)


class PatchProjection(nn.Module):
    """Convolution over non-overlapping patches; the kernel is quantized, the image is not."""

    features: int
    patch_size: int
    quantization: Quantization | None = None
    dtype: DTypeLike = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[B, height, width, channels] -> [B, height/patch, width/patch, features]."""
        patch = self.patch_size
        batch, height, width, channels = images.shape
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (patch, patch, channels, self.features))
        kernel = quantize_kernel(self, kernel, self.quantization).astype(self.dtype)
        # Without overlap the convolution is one matrix product, faster than a general one.
        patches = images.astype(self.dtype).reshape(
            batch, height // patch, patch, width // patch, patch, channels
        )
        observe(self, "input", lambda: jnp.swapaxes(patches, 2, 3))
        x = jnp.einsum("bhpwqc,pqcf->bhwf", patches, kernel)
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x + bias.astype(self.dtype)[None, None, None]


class PatchEmbed(nn.Module):
    """Image to patch embeddings, as timm nests it; with a LayerNorm if `norm_epsilon` is given."""

    features: int
    patch_size: int
    quantization: Quantization | None = None
    dtype: DTypeLike = jnp.float32
    norm_epsilon: float | None = None
    use_bias: bool = True

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[B, height, width, channels] -> [B, height/patch, width/patch, features]."""
        x = PatchProjection(
            features=self.features,
            patch_size=self.patch_size,
            quantization=below(self.quantization, "proj"),
            dtype=self.dtype,
            use_bias=self.use_bias,
            name="proj",
        )(images)
        if self.norm_epsilon is None:
            return x
        return LayerNorm(self.norm_epsilon, self.dtype, name="norm")(x)


def gelu(x: Array) -> Array:
    """The exact one.

    By erf, which XLA computes in fewer operations than jax.nn.gelu's erfc. In float32, since
    1 + erf of a negative value cancels.
    """
    normal_cdf = 0.5 + 0.5 * jax.lax.erf(x.astype(jnp.float32) * math.sqrt(0.5))
    return (x * normal_cdf).astype(x.dtype)


def _quick_gelu(x: Array) -> Array:
    """CLIP's."""
    return x * jax.nn.sigmoid(1.702 * x)


# By timm's names.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": _quick_gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class Mlp(nn.Module):
    """Two dense layers around an activation, the exact GELU by default."""

    hidden_features: int
    quantization: Quantization | None = None
    dtype: DTypeLike = jnp.float32
    act_layer: str = "gelu"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., C] -> [..., C] of `dtype`."""
        rows = x.reshape(-1, x.shape[-1])
        hidden = ACTIVATIONS[self.act_layer](dense(self, self.hidden_features, "fc1")(rows))
        rows = dense(self, x.shape[-1], "fc2", has_input_factor=True)(hidden)
        return rows.reshape(x.shape)
