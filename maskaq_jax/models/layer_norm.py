"""Layer normalisation with a backward pass of its own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


class LayerNorm(nn.Module):
    """`nn.LayerNorm` with the two-pass variance, which PyTorch's statistics agree with.

    Its backward pass is written out: XLA's own reads twice as much.
    """

    epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., C] -> [..., C] of `dtype`, normalised in float32."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        shape = (1,) * (x.ndim - 1) + x.shape[-1:]
        normalised = _normalise(
            x.astype(jnp.float32), scale.reshape(shape), bias.reshape(shape), self.epsilon
        )
        return normalised.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """To mean 0 and variance 1 over the last axis, then `scale` times that plus `bias`."""
    return _normalise_forward(x, scale, bias, epsilon)[0]


def _normalise_forward(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, tuple[Array, ...]]:
    mean = x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    return (x - mean) * (inverse * scale) + bias, (x, mean, inverse, scale)


def _normalise_backward(
    epsilon: float, residuals: tuple[Array, ...], cotangent: Array
) -> tuple[Array, Array, Array]:
    del epsilon
    x, mean, inverse, scale = residuals
    unit = (x - mean) * inverse
    d_unit = cotangent * scale
    along = (d_unit * unit).mean(axis=-1, keepdims=True)
    d_x = inverse * (d_unit - d_unit.mean(axis=-1, keepdims=True) - unit * along)
    rows = tuple(range(x.ndim - 1))
    d_scale = (cotangent * unit).sum(axis=rows, keepdims=True)
    return d_x, d_scale, cotangent.sum(axis=rows, keepdims=True)


_normalise.defvjp(_normalise_forward, _normalise_backward)
