"""What a ViT computes, and what stands on one, written once for all operators."""

import math
from typing import Any, TypeVar

import numpy as np

from maskaq_jax.export import parts
from maskaq_jax.export.operators import Operators
from maskaq_jax.models import yolos
from maskaq_jax.models.linear_segmenter import LinearSegmenter
from maskaq_jax.models.vit import VisionTransformer
from maskaq_jax.models.yolos import Yolos

Value = TypeVar("Value")


def classifier(
    ops: Operators[Value], read: parts.Reader, model: VisionTransformer, images: Value
) -> Value:
    """Images -> logits [B, classes], or features [B, C]."""
    return _classify(ops, read, model, _blocks(ops, read, model, _embed(ops, read, model, images)))


def detector(ops: Operators[Value], read: parts.Reader, model: Yolos, images: Value) -> Any:
    """Images -> `logits` [B, tokens, classes + 1] and `pred_boxes` [B, tokens, 4]."""
    x, count = _patch_tokens(ops, read, images), model.num_detection_tokens
    # Tokens and what is added to them are one constant.
    position = read.parameter((), "pos_embed").copy()
    position[:, :1] += read.parameter((), "cls_token")
    position[:, -count:] += read.parameter((), "det_token")
    x = ops.add(ops.pad(x, (0, 1, 0), (0, count, 0)), ops.constant(position))
    x = _blocks(ops, read, model, x)
    last = np.arange(position.shape[1] - count, position.shape[1])
    x = parts.norm(ops, read, ("norm",), ops.take(x, last, axis=1), model.layer_norm_eps)
    logits, boxes = (_predict(ops, read, model, x, name) for name in ("class_embed", "bbox_embed"))
    return {"logits": logits, "pred_boxes": ops.sigmoid(boxes)}


def _predict(ops: Operators[Value], read: parts.Reader, model: Yolos, x: Value, head: str) -> Value:
    """A head's dense layers, and ReLU between them."""
    first, *others = (site.path for site in model.head_sites() if site.path[0] == head)
    x = parts.dense(ops, read, x, first)
    for path in others:
        x = parts.dense(ops, read, ops.activation(x, "relu"), path)
    return x


def segmenter(
    ops: Operators[Value], read: parts.Reader, model: LinearSegmenter, images: Value
) -> Value:
    """Images -> logits [B, height, width, classes]."""
    alone = model.apart()
    x = _blocks(ops, read, alone, _embed(ops, read, alone, images))
    before, size = alone.patches.num_before, alone.patch_grid
    x = ops.take(x, before + np.arange(math.prod(size)), axis=1)
    x = parts.norm(ops, read, ("norm",), x, model.layer_norm_eps)
    logits = parts.dense(ops, read, x, ("decode_head",))
    logits = ops.reshape(logits, (-1, *size, model.num_classes))
    return ops.resize(logits, size, (model.img_size, model.img_size))


def _blocks(
    ops: Operators[Value], read: parts.Reader, model: VisionTransformer | Yolos, x: Value
) -> Value:
    """Tokens [B, N, C] through all blocks."""
    epsilon = model.layer_norm_eps
    others = model.patches.num_before + model.patches.num_behind
    num_tokens = others + math.prod(model.patch_grid)
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
        hidden = parts.mlp(ops, read, normed, (*path, "mlp"), part.module.act_layer)
        x = ops.add(x, parts.layer_scaled(ops, read, hidden, (*path, "ls2")))
        if isinstance(part.module, yolos.PositionedBlock):
            x = ops.add(x, ops.constant(read.parameter(path, "mid_pos_embed")))
    return x


def _patch_tokens(ops: Operators[Value], read: parts.Reader, images: Value) -> Value:
    return ops.patches(images, read.kernel(("patch_embed", "proj")), "patch_embed/proj")


def _embed(
    ops: Operators[Value], read: parts.Reader, model: VisionTransformer, images: Value
) -> Value:
    """Images -> tokens before the first block, [B, N, C]."""
    x = _patch_tokens(ops, read, images)
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
        x = ops.pad(x, (0, count, 0), (0, 0, 0))
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
