"""Softmax attention that quantizes its operands, or doesn't, of whatever tokens it is given."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import quantizers
from maskaq_jax.models import layers
from maskaq_jax.models.layers import Quantization


def split_heads(qkv: Array, num_heads: int) -> tuple[Array, Array, Array]:
    """[B, N, 3 C] -> query, key and value, [B, H, N, d] each."""
    batch, tokens, width = qkv.shape
    qkv = qkv.reshape(batch, tokens, 3, num_heads, width // (3 * num_heads))
    query, key, value = jnp.moveaxis(qkv, (2, 3), (0, 2))
    return query, key, value


def attend(
    module: nn.Module,
    query: Array,
    key: Array,
    value: Array,
    adjust: Callable[[Array], Array],
    quantization: Quantization | None,
) -> tuple[Array, Array, Array]:
    """Softmax attention; both operands of both products are quantized, as `module`'s.

    Args:
      module: holds the quantizers.
      query, key, value: [B, H, N, d].
      adjust: what becomes of the logits between the first product and the softmax.
      quantization: None for full precision.

    Returns:
      Tokens [B, N, H d], heads merged; the logits of the first product (`docs/method.md`: A),
      [B, H, N, N] float32; the outputs of the second (O), [B, H, N, d] float32.
    """
    query = layers.quantize_operand(module, "query", query, quantization)
    key = layers.quantize_operand(module, "key", key, quantization)
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    adjusted = adjust(logits)
    arguments = layers.rounding_arguments(
        module, "probabilities", lambda: jax.nn.softmax(adjusted), quantization
    )
    if arguments is None:
        outputs = softmax_product(adjusted, value)
    else:
        probabilities = quantizers.quantize_softmax(adjusted, *arguments).astype(value.dtype)
        value = layers.quantize_operand(module, "value", value, quantization)
        outputs = jnp.einsum("bhqk,bhkd->bhqd", probabilities, value)
    batch, heads, tokens, head_dim = outputs.shape
    merged = jnp.moveaxis(outputs, 1, 2).reshape(batch, tokens, heads * head_dim)
    return merged, logits, outputs.astype(jnp.float32)


def softmax_product(logits: Array, value: Array) -> Array:
    """[B, H, N, N] and [B, H, N, d] -> `softmax(logits) value`, [B, H, N, d] in value's dtype.

    Divides after the product: a row has d columns then, where the softmax has N.
    """
    # Whatever is subtracted, the result and its slopes are the same.
    exponentials = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    products = jnp.einsum(
        "bhqk,bhkd->bhqd",
        exponentials.astype(value.dtype),
        value,
        preferred_element_type=jnp.float32,
    )
    return (products / exponentials.sum(axis=-1, keepdims=True)).astype(value.dtype)
