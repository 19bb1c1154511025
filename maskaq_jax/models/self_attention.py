"""Softmax attention that quantizes its operands, or doesn't, of whatever tokens it is given."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import quantizers
from maskaq_jax.models import layers
from maskaq_jax.models.layers import Quantization


class Attended(NamedTuple):
    """What an attention layer, or a block around one, makes of its tokens.

    Attributes:
      tokens: [B, N, C], or on their grid [B, grid, grid, C].
      logits: [B, H, N, N] float32, of the first product (`docs/method.md`: A); B counts windows
        where there are some, as it does in `outputs`.
      outputs: [B, H, N, d] float32, of the second, heads apart (O).
    """

    tokens: Array
    logits: Array
    outputs: Array


def tokens_of(result: Array | Attended) -> Array:
    """What the next part of a model takes of what a part gives."""
    return result.tokens if isinstance(result, Attended) else result


def through(
    blocks: Iterable[Callable[[Array], Attended]], x: Array
) -> tuple[Array, dict[str, tuple[Array, ...]]]:
    """Tokens [B, N, C] through one block after another: those behind the last, and `of_blocks`."""
    passed: list[Attended] = []
    for block in blocks:
        passed.append(block(x))
        x = passed[-1].tokens
    return x, of_blocks(passed)


def of_blocks(blocks: Sequence[Attended]) -> dict[str, tuple[Array, ...]]:
    """What a model's `out` says of its blocks: by each name a tuple of an array a block."""
    return {
        "attention_logits": tuple(block.logits for block in blocks),
        "attention_outputs": tuple(block.outputs for block in blocks),
        "block_outputs": tuple(block.tokens for block in blocks),
    }


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
) -> Attended:
    """Softmax attention; both operands of both products are quantized, as `module`'s.

    Args:
      module: holds the quantizers.
      query, key, value: [B, H, N, d].
      adjust: what becomes of the logits between the first product and the softmax.
      quantization: the module's; None for full precision.

    Returns:
      Tokens [B, N, H d], heads merged; logits and outputs.
    """
    operand = functools.partial(_quantize_operand, module, quantization)
    query, key = operand("query", query), operand("key", key)
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)
    adjusted = adjust(logits)
    layers.observe(module, "probabilities", lambda: jax.nn.softmax(adjusted))
    own = layers.below(quantization, "probabilities")
    if layers.rounds_activations(own):
        rounding = layers.activation_rounding(
            module, "probabilities", lambda: jax.nn.softmax(adjusted), own
        )
        probabilities = quantizers.quantize_softmax(adjusted, *rounding).astype(value.dtype)
        outputs = jnp.einsum("bhqk,bhkd->bhqd", probabilities, operand("value", value))
    else:
        outputs = softmax_product(adjusted, operand("value", value))
    batch, heads, tokens, head_dim = outputs.shape
    merged = jnp.moveaxis(outputs, 1, 2).reshape(batch, tokens, heads * head_dim)
    return Attended(merged, logits, outputs.astype(jnp.float32))


def _quantize_operand(
    module: nn.Module, quantization: Quantization | None, name: str, x: Array
) -> Array:
    """An operand, rounded by its own bits."""
    return layers.quantize_operand(module, name, x, layers.below(quantization, name))


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
