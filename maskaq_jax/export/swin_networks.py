"""What a Swin computes, and what stands on one, written once for all operators."""

from typing import Any, TypeVar

import jax
import numpy as np

from maskaq_jax.export import parts
from maskaq_jax.export.operators import Operators
from maskaq_jax.models import swin
from maskaq_jax.models.swin import SwinTransformer

Value = TypeVar("Value")


def classifier(
    ops: Operators[Value], read: parts.Reader, model: SwinTransformer, images: Value
) -> Value:
    """Images -> logits [B, classes], or features [B, C]."""
    path: parts.Path = ("patch_embed",)
    x = ops.patches(images, read.kernel((*path, "proj")), "patch_embed/proj")
    x = parts.norm(ops, read, (*path, "norm"), x, swin.LAYER_NORM_EPSILON)
    grid, channels = model.img_size // model.patch_size, model.embed_dim
    for part in model.parts():
        if isinstance(part.module, swin.PatchMerging):
            x = _merge_patches(ops, read, x, part.path, grid, channels)
            grid, channels = grid // 2, 2 * channels
        else:
            x = _window_block(ops, read, x, part.path, part.module, grid, channels)
    x = ops.mean(parts.norm(ops, read, ("norm",), x, swin.LAYER_NORM_EPSILON), axis=1)
    if model.num_classes:
        x, channels = parts.dense(ops, read, x, ("head", "fc")), model.num_classes
    return ops.reshape(x, (-1, channels))


def _window_block(
    ops: Operators[Value],
    read: parts.Reader,
    x: Value,
    path: parts.Path,
    block: Any,
    grid: int,
    channels: int,
) -> Value:
    """[B, grid^2, C] -> the same: attention in windows, and the MLP."""
    window, size = block.window, block.window**2
    num_windows = grid**2 // size
    order = _window_order(grid, window, block.shift)
    heads = parts.Heads((-1, num_windows), size, block.num_heads, channels)

    table = ops.constant(read.parameter((*path, "attn"), "relative_position_bias_table"))
    index = swin.relative_position_index(window).reshape(-1)
    bias = ops.reshape(ops.take(table, index, axis=0), (size, size, block.num_heads))
    bias = ops.reshape(ops.transpose(bias, (2, 0, 1)), (1, block.num_heads, size, size))
    if block.shift:
        with jax.ensure_compile_time_eval():
            mask = np.asarray(swin.shift_mask(grid, window, block.shift))
        bias = ops.add(bias, ops.constant(mask[:, None]))

    normed = parts.norm(ops, read, (*path, "norm1"), x, swin.LAYER_NORM_EPSILON)
    rounded = parts.quantize(ops, read, normed, (*path, "attn", "qkv"), "input")
    ordered = ops.take(rounded.value, order, axis=1)
    rounded = rounded._replace(value=ops.reshape(ordered, (-1, num_windows, size, channels)))
    attended = parts.self_attention(
        *(ops, read, rounded, (*path, "attn"), heads),
        query_factor=heads.width**-0.5,
        adjust=lambda logits: ops.add(logits, bias),
    )
    attended = ops.reshape(attended, (-1, grid**2, channels))
    x = ops.add(x, ops.take(attended, np.argsort(order), axis=1))
    normed = parts.norm(ops, read, (*path, "norm2"), x, swin.LAYER_NORM_EPSILON)
    return ops.add(x, parts.mlp(ops, read, normed, (*path, "mlp"), "gelu"))


def _window_order(grid: int, window: int, shift: int) -> np.ndarray:
    """[grid^2] token of each place of the windows, which lie one after the other."""
    tokens = np.arange(grid**2).reshape(grid, grid)
    tokens = np.roll(tokens, (-shift, -shift), axis=(0, 1))
    windows = tokens.reshape(grid // window, window, grid // window, window)
    return windows.swapaxes(1, 2).reshape(-1)


def _merge_patches(
    ops: Operators[Value], read: parts.Reader, x: Value, path: parts.Path, grid: int, channels: int
) -> Value:
    """[B, grid^2, C] -> [B, (grid / 2)^2, 2 C]."""
    half = grid // 2
    x = ops.reshape(x, (-1, half, 2, half, 2, channels))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 4, 2, 5)), (-1, half**2, 4 * channels))
    x = parts.norm(ops, read, (*path, "norm"), x, swin.LAYER_NORM_EPSILON)
    return parts.dense(ops, read, x, (*path, "reduction"))
