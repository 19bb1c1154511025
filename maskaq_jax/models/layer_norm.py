"""Layer normalisation with a backward pass of its own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


class LayerNorm(nn.Module):
    """`nn.LayerNorm` with the two-pass variance, which PyTorch's statistics agree with.

    Its backward pass is written out, which XLA's CPU backend compiles to half the passes over
    memory that derived ones take. So it has no forward-mode derivative.

    Attributes:
      epsilon: added to the variance.
      dtype: of the result.
    """

    epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., C] -> [..., C] of `dtype`, normalised in float32."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        rows = x.astype(jnp.float32).reshape(-1, x.shape[-1])
        normalised = _normalise(rows, scale[None], bias[None], self.epsilon)
        return normalised.astype(self.dtype).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normalise(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """`scale u + bias` with `u = (x - mean x) / s`, `s^2 = var x + epsilon`, over channels.

    x is [tokens, C], scale and bias are [1, C]. Backward, with the gradient d of u:
    `(d - mean d - u mean(d u)) / s`.
    """
    return _normalise_forward(x, scale, bias, epsilon)[0]


def _normalise_forward(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, tuple[Array, ...]]:
    mean = x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x - mean).mean(axis=-1, keepdims=True)
    inverse_deviation = jax.lax.rsqrt(variance + epsilon)
    return (x - mean) * (inverse_deviation * scale) + bias, (x, mean, inverse_deviation, scale)


def _normalise_backward(
    epsilon: float, residuals: tuple[Array, ...], cotangent: Array
) -> tuple[Array, Array, Array]:
    del epsilon
    x, mean, inverse_deviation, scale = residuals
    unit = (x - mean) * inverse_deviation
    d_unit = cotangent * scale
    along = (d_unit * unit).mean(axis=-1, keepdims=True)
    d_x = inverse_deviation * (d_unit - d_unit.mean(axis=-1, keepdims=True) - unit * along)
    d_scale = (cotangent * unit).sum(axis=0, keepdims=True)
    return d_x, d_scale, cotangent.sum(axis=0, keepdims=True)


_normalise.defvjp(_normalise_forward, _normalise_backward)
