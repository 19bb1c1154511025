"""Dense and convolution layers that quantize their operands, or don't.

Each layer holds the same `params` in full precision and quantized. A quantized layer adds, in the
`quant` collection, one `ActivationQuantizer` per activation it rounds; it is initialised from the
first tensor seen when the collection is mutable and the quantizer is missing, so one forward pass
calibrates a model with each layer fed by the quantized ones before it (`docs/method.md` section 1).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from maskaq_jax import quantizers
from maskaq_jax.models.layer_norm import LayerNorm
from maskaq_jax.ranges import NonNegativeFloat

_kernel_init = nn.initializers.xavier_uniform()


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How a model is quantized.

    Attributes:
      weight_bits: 2 to 8, or 32 to leave weights alone.
      activation_bits: 2 to 8, or 32 to leave activations alone.
      lsq_grad_scale: factor in the gradient scale of the step sizes.
    """

    weight_bits: int
    activation_bits: int
    lsq_grad_scale: NonNegativeFloat = 1.0

    def __post_init__(self) -> None:
        for field in ("weight_bits", "activation_bits"):
            bits = getattr(self, field)
            if bits != quantizers.FULL_PRECISION_BITS and not (
                quantizers.MIN_BITS <= bits <= quantizers.MAX_BITS
            ):
                raise ValueError(
                    f"{field} must be {quantizers.MIN_BITS} to {quantizers.MAX_BITS}, or "
                    f"{quantizers.FULL_PRECISION_BITS} for none, got {bits}"
                )


def check_patches(img_size: int, patch_size: int) -> None:
    """Raises ValueError where patches don't cover an image."""
    if img_size % patch_size:
        raise ValueError(
            f"img_size must be a multiple of patch_size, got img_size={img_size} and "
            f"patch_size={patch_size}"
        )


def check_images(images: Array, input_shape: tuple[int, int, int]) -> None:
    """Raises ValueError for images of another shape than the model's."""
    if images.shape[1:] != input_shape:
        expected = ", ".join(map(str, input_shape))
        raise ValueError(f"expected images of [B, {expected}], got {images.shape}")


def quantize_kernel(kernel: Array, quantization: Quantization | None) -> Array:
    """Fake-quantizes a kernel whose output channels are its last axis."""
    if quantization is None or quantization.weight_bits == quantizers.FULL_PRECISION_BITS:
        return kernel
    return quantizers.quantize_weight(kernel, quantization.weight_bits, channel_axis=-1)


def quantize_operand(
    module: nn.Module, name: str, x: Array, quantization: Quantization | None
) -> Array:
    """Fake-quantizes an activation with `module`'s quantizer called `name`."""
    arguments = rounding_arguments(module, name, lambda: x, quantization)
    return x if arguments is None else quantizers.quantize_activation(x, *arguments)


def rounding_arguments(
    module: nn.Module, name: str, values: Callable[[], Array], quantization: Quantization | None
) -> tuple[quantizers.ActivationQuantizer, int, Array] | None:
    """Quantizer, bits and gradient scale, as functions of `quantizers` take them.

    The quantizer is `module`'s called `name`, initialised with `values()` where it is missing. None
    where activations are not quantized.
    """
    if quantization is None or quantization.activation_bits == quantizers.FULL_PRECISION_BITS:
        return None
    bits = quantization.activation_bits

    def initialize() -> quantizers.ActivationQuantizer:
        return quantizers.init_activation_quantizer(values(), bits)

    quantizer = module.variable("quant", name, initialize).value
    grad_scale = quantizers.step_gradient_scale(quantizer, bits, quantization.lsq_grad_scale)
    return quantizer, bits, grad_scale


def _is_calibrating(module: nn.Module) -> bool:
    """Whether the pass initialises quantizers; `calibration.py` says why that is not compiled."""
    return module.is_mutable_collection("quant")


def traced_once(block: Callable[..., Any], module: nn.Module) -> Callable[..., Any]:
    """A class of blocks, those of one kind traced once; as it is while `module` is calibrated."""
    return block if _is_calibrating(module) else _jitted(block)


# Each result is a class of its own, and traced anew.
@functools.cache
def _jitted(block: Callable[..., Any]) -> Callable[..., Any]:
    return nn.jit(block)


class Dense(nn.Module):
    """Affine layer on the last axis; its input and kernel are quantized."""

    features: int
    quantization: Quantization | None = None
    dtype: DTypeLike = jnp.float32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., C] -> [..., features] of `dtype`."""
        kernel = self.param("kernel", _kernel_init, (x.shape[-1], self.features))
        # One flat matrix product: XLA's CPU backend transposes the weight gradient's operands when
        # tokens keep an axis of their own.
        rows = quantize_operand(self, "input", x.reshape(-1, x.shape[-1]), self.quantization)
        kernel = quantize_kernel(kernel, self.quantization)
        rows = rows.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            rows = rows + bias.astype(self.dtype)[None]
        return rows.reshape(*x.shape[:-1], self.features)


class PatchProjection(nn.Module):
    """Convolution over non-overlapping patches; the kernel is quantized, the image is not."""

    features: int
    patch_size: int
    quantization: Quantization | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[B, height, width, channels] -> [B, height/patch, width/patch, features]."""
        patch = self.patch_size
        batch, height, width, channels = images.shape
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (patch, patch, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel = quantize_kernel(kernel, self.quantization).astype(self.dtype)
        # Without overlap the convolution is one matrix product, faster than a general one.
        patches = images.astype(self.dtype).reshape(
            batch, height // patch, patch, width // patch, patch, channels
        )
        return (
            jnp.einsum("bhpwqc,pqcf->bhwf", patches, kernel)
            + bias.astype(self.dtype)[None, None, None]
        )


class PatchEmbed(nn.Module):
    """Image to patch embeddings, as timm nests it; with a LayerNorm if `norm_epsilon` is given."""

    features: int
    patch_size: int
    quantization: Quantization | None = None
    dtype: DTypeLike = jnp.float32
    norm_epsilon: float | None = None

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """[B, height, width, channels] -> [B, height/patch, width/patch, features]."""
        x = PatchProjection(
            self.features, self.patch_size, self.quantization, self.dtype, name="proj"
        )(images)
        if self.norm_epsilon is None:
            return x
        return LayerNorm(self.norm_epsilon, self.dtype, name="norm")(x)


class Mlp(nn.Module):
    """Two dense layers around the exact GELU."""

    hidden_features: int
    quantization: Quantization | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., C] -> [..., C] of `dtype`."""
        rows = x.reshape(-1, x.shape[-1])
        hidden = Dense(self.hidden_features, self.quantization, self.dtype, name="fc1")(rows)
        # By erf, which XLA computes in fewer operations than jax.nn.gelu's erfc. In
        # float32, since 1 + erf of a negative value cancels.
        normal_cdf = 0.5 + 0.5 * jax.lax.erf(hidden.astype(jnp.float32) * math.sqrt(0.5))
        hidden = (hidden * normal_cdf).astype(hidden.dtype)
        rows = Dense(x.shape[-1], self.quantization, self.dtype, name="fc2")(hidden)
        return rows.reshape(x.shape)
