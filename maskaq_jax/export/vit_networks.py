"""What a ViT computes, and what stands on one, written once for all operators."""

import math
from typing import TypeVar

import numpy as np

from maskaq_jax.export import parts
from maskaq_jax.export.operators import Operators
from maskaq_jax.models.vit import VisionTransformer

Value = TypeVar("Value")


def classifier(
    ops: Operators[Value], read: parts.Reader, model: VisionTransformer, images: Value
) -> Value:
    """Images -> logits [B, classes], or features [B, C]."""
    x, epsilon = _embed(ops, read, model, images), model.layer_norm_eps
    num_tokens = model.patches.num_before + math.prod(model.patch_grid)
    heads = parts.Heads((-1,), num_tokens, model.num_heads, model.embed_dim)
    for part in model.parts():
        path = part.path
        normed = parts.norm(ops, read, (*path, "norm1"), x, epsilon)
        rounded = parts.quantize(ops, read, normed, (*path, "attn", "qkv"), "input")
        attended = parts.self_attention(
            *(ops, read, rounded, (*path, "attn"), heads),
            logits_factor=heads.width**-0.5,
            epsilon=epsilon,
        )
        x = ops.add(x, parts.layer_scaled(ops, read, attended, (*path, "ls1")))
        normed = parts.norm(ops, read, (*path, "norm2"), x, epsilon)
        hidden = parts.mlp(ops, read, normed, (*path, "mlp"), model.act_layer)
        x = ops.add(x, parts.layer_scaled(ops, read, hidden, (*path, "ls2")))
    return _classify(ops, read, model, x)


def _embed(
    ops: Operators[Value], read: parts.Reader, model: VisionTransformer, images: Value
) -> Value:
    """Images -> tokens before the first block, [B, N, C]."""
    x = ops.patches(images, read.kernel(("patch_embed", "proj")), "patch_embed/proj")
    position = read.parameter((), "pos_embed")
    names = ["cls_token"] if model.class_token else []
    names += ["dist_token"] if model.distilled else []
    names += ["reg_token"] if model.reg_tokens else []
    if names:
        # Tokens and what is added to them are one constant.
        tokens = np.concatenate([read.parameter((), name) for name in names], axis=1)
        count = tokens.shape[1]
        if not model.no_embed_class:
            tokens, position = tokens + position[:, :count], position[:, count:]
        x = ops.pad_front(x, count)
        position = np.concatenate([tokens, position], axis=1)
    x = ops.add(x, ops.constant(position))
    return parts.norm(ops, read, ("norm_pre",), x, model.layer_norm_eps) if model.pre_norm else x


def _classify(
    ops: Operators[Value], read: parts.Reader, model: VisionTransformer, x: Value
) -> Value:
    """Tokens behind the last block -> logits [B, classes], or features [B, C]."""
    epsilon, before = model.layer_norm_eps, model.patches.num_before

    def normed(x: Value) -> Value:
        return x if model.has_fc_norm else parts.norm(ops, read, ("norm",), x, epsilon)

    if model.distilled and model.num_classes:
        both = (
            _logits(ops, read, model, normed(ops.take(x, np.array([i]), axis=1)), name)
            for i, name in enumerate(("head", "head_dist"))
        )
        return ops.multiply(ops.add(*both), ops.constant(np.array(0.5, np.float32)))
    if model.global_pool == "token":
        x = ops.take(x, np.arange(1 + model.distilled), axis=1)
    elif before:
        x = ops.take(x, np.arange(before, before + math.prod(model.patch_grid)), axis=1)
    x = normed(x)
    if model.global_pool == "map":
        x = _attention_pool(ops, read, model, x)
    elif model.global_pool == "avg" or model.distilled:
        x = ops.mean(x, axis=1)
    if model.has_fc_norm:
        x = parts.norm(ops, read, ("fc_norm",), x, epsilon)
    if not model.num_classes:
        return ops.reshape(x, (-1, model.embed_dim))
    return _logits(ops, read, model, x, "head")


def _logits(
    ops: Operators[Value], read: parts.Reader, model: VisionTransformer, x: Value, name: str
) -> Value:
    """[B, 1, C] -> [B, classes]. Of rank 2 the product would be a Gemm, which is one of floats."""
    return ops.reshape(parts.dense(ops, read, x, (name,)), (-1, model.num_classes))


def _attention_pool(
    ops: Operators[Value], read: parts.Reader, model: VisionTransformer, x: Value
) -> Value:
    """Patches [B, n, C] -> what a learned query finds in them, [B, 1, C]."""
    path: parts.Path = ("attn_pool",)
    channels, count = model.embed_dim, math.prod(model.patch_grid)
    one, many = (parts.Heads((-1,), tokens, model.num_heads, channels) for tokens in (1, count))
    projection = read.kernel((*path, "q"))
    assert projection.bias is not None
    # The same for every image, and not rounded before its product with the keys.
    learned = read.parameter(path, "latent") @ projection.values() + projection.bias
    rounded = parts.quantize(ops, read, x, (*path, "kv"), "input")
    query = parts.operand(ops, read, ops.constant(learned), path, "query", one)
    key, value = (
        parts.operand(
            ops, read, ops.dense(rounded, kernel, parts.named(path, "kv", name)), path, name, many
        )
        for name, kernel in zip(("key", "value"), read.kernel((*path, "kv")).split(2), strict=True)
    )
    x = parts.attend(ops, read, path, one, (query, key, value), logits_factor=one.width**-0.5)
    normed = parts.norm(ops, read, (*path, "norm"), x, model.layer_norm_eps)
    return ops.add(x, parts.mlp(ops, read, normed, (*path, "mlp"), model.act_layer))
