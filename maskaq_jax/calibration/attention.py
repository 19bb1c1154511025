"""Factors of queries, keys and values that make them easier to round, folded into their kernel.

Source: `docs/method.md` section 6. Exact in float: `q' = q / s`, `k' = k s` leave every product of
a query and a key as it is, and `v' = (v - m) / r` is undone by the kernel behind, since the
probabilities of a row sum to one. A kernel that lies on its grid stays there: its steps take the
factors, a channel each.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import quantizers
from maskaq_jax.devices import arrays

# Exponents of the channels' ranges that are tried.
_EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def choose_query_factor(query: Array, key: Array, num_heads: int, bits: int) -> Array:
    """The factor s that leaves the least squared error of the logits, both operands rounded.

    Tried are `range(q)^alpha / range(k)^beta` for all exponents alpha and beta. What all keys of a
    query have in common does not count: the softmax takes it out.

    Args:
      query: [T, C] a sample, heads side by side.
      key: [T, C] of the same tokens.
      num_heads: that C is divided into.
      bits: of both, 2 to 8.

    Returns:
      [C] float32 s.

    Raises:
      ValueError: arrays of other shapes, or heads that don't divide them.
    """
    arrays.check_axes("query", query, "rows channels", "floating")
    arrays.check_same_shape(query=query, key=key)
    if query.shape[-1] % num_heads:
        raise ValueError(f"{num_heads} heads don't divide {query.shape[-1]} channels")
    ranges = [jnp.maximum(jnp.abs(x).max(axis=0), 1e-6) for x in (query, key)]
    ranges = [jnp.maximum(own, 1e-3 * own.mean()) for own in ranges]
    candidates = [
        ranges[0] ** alpha / ranges[1] ** beta
        for alpha, beta in itertools.product(_EXPONENTS, repeat=2)
    ]
    errors = [_logit_error(query, key, factor, num_heads, bits) for factor in candidates]
    return candidates[int(jnp.argmin(jnp.stack(errors)))]


@functools.partial(jax.jit, static_argnames=("num_heads", "bits"))
def _logit_error(query: Array, key: Array, factor: Array, num_heads: int, bits: int) -> Array:
    """[] mean squared error of the logits of all pairs of rows."""
    rounded = []
    for x in (query / factor[None], key * factor[None]):
        quantizer = quantizers.least_squares_activation_quantizer(x, bits)
        rounded.append(quantizers.quantize_activation(x, quantizer, bits))

    def logits(query: Array, key: Array) -> Array:
        heads = (x.reshape(len(x), num_heads, -1) for x in (query, key))
        return jnp.einsum("qhd,khd->hqk", *heads)

    error = logits(*rounded) - logits(query, key)
    return jnp.square(error - error.mean(axis=-1, keepdims=True)).mean()
