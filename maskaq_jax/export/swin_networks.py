"""What a Swin computes, and what stands on one, written once for all operators."""

import math
from typing import Any, TypeVar

import jax
import numpy as np

from maskaq_jax.export import parts
from maskaq_jax.export.operators import Operators, Rounded
from maskaq_jax.models import maps, swin, upernet, windows
from maskaq_jax.models.swin import SwinStages, SwinTransformer
from maskaq_jax.models.swin_fpn import SwinFpn
from maskaq_jax.models.swin_maps import SwinMaps
from maskaq_jax.models.upernet import UperNet
from maskaq_jax.regions import WindowGrid

Value = TypeVar("Value")


def classifier(
    ops: Operators[Value], read: parts.Reader, model: SwinTransformer, images: Value
) -> Value:
    """Images -> logits [B, classes], or features [B, C]."""
    x, channels = _stages(ops, read, model, images)[-1], _channels(model)[-1]
    x = ops.mean(parts.norm(ops, read, ("norm",), x, swin.LAYER_NORM_EPSILON), axis=1)
    if model.num_classes:
        x, channels = parts.dense(ops, read, x, ("head", "fc")), model.num_classes
    return ops.reshape(x, (-1, channels))


def segmenter(ops: Operators[Value], read: parts.Reader, model: UperNet, images: Value) -> Value:
    """Images -> logits [B, height, width, classes]."""
    path, sizes = ("decode_head",), _sizes(model)
    *sides, last = _maps(ops, read, model, images)

    def convolved(x: Value, name: str, size: tuple[int, int]) -> Value:
        return ops.activation(parts.conv(ops, read, x, (*path, name), size), "relu")

    laterals = [_pointwise(ops, read, x, f"lateral_convs_{i}") for i, x in enumerate(sides)]
    pooled = _pooled(ops, read, last, sizes[-1], _channels(model)[-1])
    laterals.append(convolved(pooled, "bottleneck", sizes[-1]))
    for i in range(len(sides), 0, -1):
        coarse = _resized(ops, laterals[i], sizes[i], sizes[i - 1])
        laterals[i - 1] = ops.add(laterals[i - 1], coarse)
    pyramid = [
        convolved(x, f"fpn_convs_{i}", sizes[i]) for i, x in enumerate(laterals[:-1])
    ] + laterals[-1:]
    levels = [_resized(ops, x, size, sizes[0]) for x, size in zip(pyramid, sizes, strict=True)]
    fused = convolved(ops.concatenate(levels, axis=-1), "fpn_bottleneck", sizes[0])
    logits = parts.dense(ops, read, fused, (*path, "conv_seg"))
    height, width, _ = model.input_shape
    return _resized(ops, logits, sizes[0], (height, width))


def _pointwise(ops: Operators[Value], read: parts.Reader, x: Value, name: str) -> Value:
    return ops.activation(parts.dense(ops, read, x, ("decode_head", name)), "relu")


def _pooled(
    ops: Operators[Value], read: parts.Reader, x: Value, size: tuple[int, int], channels: int
) -> Value:
    """A map [B, *size, C] beside its means over bins."""
    found = [x]
    for i, count in enumerate(upernet.POOLING_SCALES):
        name, bins = f"psp_modules_{i}", (count, count)
        pooled = _means_of_bins(ops, x, size, count, channels, f"decode_head/{name}")
        found.append(_resized(ops, _pointwise(ops, read, pooled, name), bins, size))
    return ops.concatenate(found, axis=-1)


def _means_of_bins(
    ops: Operators[Value], x: Value, size: tuple[int, int], count: int, channels: int, name: str
) -> Value:
    """[B, *size, C] -> [B, count, count, C], `maps.pool`; bins are uneven, so by two products."""
    rows, columns = size
    by_row, by_column = (Rounded(ops.constant(maps.bins(n, count)[None]), None) for n in size)
    flat = Rounded(ops.reshape(x, (-1, rows, columns * channels)), None)
    sums = ops.product(by_row, flat, 1.0, f"{name}/row_means")
    flat = Rounded(ops.reshape(sums, (-1, columns, channels)), None)
    sums = ops.product(by_column, flat, 1.0, f"{name}/column_means")
    return ops.reshape(sums, (-1, count, count, channels))


def _resized(ops: Operators[Value], x: Value, size: tuple[int, int], to: tuple[int, int]) -> Value:
    return x if size == to else ops.resize(x, size, to)


def pyramid(
    ops: Operators[Value], read: parts.Reader, model: SwinFpn, images: Value
) -> tuple[Value, ...]:
    """Images -> levels [B, rows, columns, C], the largest first."""
    sizes = _sizes(model)
    laterals = [
        parts.dense(ops, read, x, ("neck", f"lateral_convs_{i}"))
        for i, x in enumerate(_maps(ops, read, model, images))
    ]
    for i in range(len(laterals) - 1, 0, -1):
        coarse = laterals[i]
        for axis, old, new in zip((1, 2), sizes[i], sizes[i - 1], strict=True):
            coarse = ops.take(coarse, np.arange(new) * old // new, axis)
        laterals[i - 1] = ops.add(laterals[i - 1], coarse)
    levels = [
        parts.conv(ops, read, x, ("neck", f"fpn_convs_{i}"), sizes[i])
        for i, x in enumerate(laterals)
    ]
    last = levels[-1]
    for axis, length in zip((1, 2), sizes[-1], strict=True):
        last = ops.take(last, np.arange(0, length, 2), axis)
    return (*levels, last)


def _maps(ops: Operators[Value], read: parts.Reader, model: SwinMaps, images: Value) -> list[Value]:
    """The normed map of each stage, [B, rows, columns, C]."""
    of_stages = zip(_stages(ops, read, model, images), _sizes(model), _channels(model), strict=True)
    return [
        ops.reshape(
            parts.norm(ops, read, (f"norm_{i}",), x, swin.LAYER_NORM_EPSILON),
            (-1, *size, channels),
        )
        for i, (x, size, channels) in enumerate(of_stages)
    ]


def _sizes(model: SwinStages) -> list[tuple[int, int]]:
    """Rows and columns of each stage."""
    return [model.grid(stage) for stage in range(len(model.depths))]


def _channels(model: SwinStages) -> list[int]:
    return [model.embed_dim * 2**stage for stage in range(len(model.depths))]


def _stages(
    ops: Operators[Value], read: parts.Reader, model: SwinStages, images: Value
) -> list[Value]:
    """Tokens behind each stage, [B, rows * columns, C]."""
    path: parts.Path = ("patch_embed",)
    height, width, _ = model.input_shape
    padding = -height % model.patch_size, -width % model.patch_size
    x = ops.patches(images, read.kernel((*path, "proj")), "patch_embed/proj", padding)
    x = parts.norm(ops, read, (*path, "norm"), x, swin.LAYER_NORM_EPSILON)
    found: list[Value] = []
    sizes, channels = _sizes(model), _channels(model)
    for i, stage in enumerate(model.stages()):
        for part in stage.parts((f"layers_{i}",)):
            if isinstance(part.module, swin.PatchMerging):
                x = _merge_patches(ops, read, x, part.path, sizes[i - 1], channels[i - 1])
            else:
                x = _window_block(ops, read, x, part.path, part.module, sizes[i], channels[i])
        found.append(x)
    return found


def _window_block(
    ops: Operators[Value],
    read: parts.Reader,
    x: Value,
    path: parts.Path,
    block: Any,
    grid: tuple[int, int],
    channels: int,
) -> Value:
    """[B, rows * columns, C] -> the same: attention in windows, and the MLP."""
    window, size = block.window, block.window**2
    padded = WindowGrid(*grid, window).padded
    num_windows = math.prod(padded) // size
    order = _window_order(padded, window, block.shift)
    heads = parts.Heads((-1, num_windows), size, block.num_heads, channels)

    table = ops.constant(read.parameter((*path, "attn"), "relative_position_bias_table"))
    index = windows.relative_position_index(window).reshape(-1)
    bias = ops.reshape(ops.take(table, index, axis=0), (size, size, block.num_heads))
    bias = ops.reshape(ops.transpose(bias, (2, 0, 1)), (1, block.num_heads, size, size))
    if block.shift:
        with jax.ensure_compile_time_eval():
            mask = np.asarray(windows.shift_mask(padded[0], window, block.shift, padded[1]))
        bias = ops.add(bias, ops.constant(mask[:, None]))

    normed = parts.norm(ops, read, (*path, "norm1"), x, swin.LAYER_NORM_EPSILON)
    normed = _pad_grid(ops, normed, grid, padded, channels)
    rounded = parts.quantize(ops, read, normed, (*path, "attn", "qkv"), "input")
    ordered = ops.take(rounded.value, order, axis=1)
    rounded = rounded._replace(value=ops.reshape(ordered, (-1, num_windows, size, channels)))
    attended = parts.self_attention(
        *(ops, read, rounded, (*path, "attn"), heads),
        query_factor=heads.width**-0.5,
        adjust=lambda logits: ops.add(logits, bias),
    )
    attended = ops.reshape(attended, (-1, math.prod(padded), channels))
    places = np.argsort(order).reshape(padded)[: grid[0], : grid[1]]
    x = ops.add(x, ops.take(attended, places.reshape(-1), axis=1))
    normed = parts.norm(ops, read, (*path, "norm2"), x, swin.LAYER_NORM_EPSILON)
    return ops.add(x, parts.mlp(ops, read, normed, (*path, "mlp"), "gelu"))


def _window_order(grid: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """[rows * columns] token of each place of the windows, which lie one after the other."""
    rows, columns = grid
    tokens = np.arange(rows * columns).reshape(grid)
    tokens = np.roll(tokens, (-shift, -shift), axis=(0, 1))
    by_window = tokens.reshape(rows // window, window, columns // window, window)
    return by_window.swapaxes(1, 2).reshape(-1)


def _pad_grid(
    ops: Operators[Value], x: Value, grid: tuple[int, int], to: tuple[int, int], channels: int
) -> Value:
    """[B, rows * columns, C] -> those of a larger grid, with zeros below and to the right."""
    if grid == to:
        return x
    behind = (0, to[0] - grid[0], to[1] - grid[1], 0)
    x = ops.pad(ops.reshape(x, (-1, *grid, channels)), (0, 0, 0, 0), behind)
    return ops.reshape(x, (-1, math.prod(to), channels))


def _merge_patches(
    ops: Operators[Value],
    read: parts.Reader,
    x: Value,
    path: parts.Path,
    grid: tuple[int, int],
    channels: int,
) -> Value:
    """[B, rows * columns, C] -> [B, rows / 2 * columns / 2, 2 C]."""
    rows, columns = WindowGrid(*grid, 2).padded
    x = _pad_grid(ops, x, grid, (rows, columns), channels)
    x = ops.reshape(x, (-1, rows // 2, 2, columns // 2, 2, channels))
    x = ops.transpose(x, (0, 1, 3, 4, 2, 5))
    x = ops.reshape(x, (-1, rows * columns // 4, 4 * channels))
    x = parts.norm(ops, read, (*path, "norm"), x, swin.LAYER_NORM_EPSILON)
    return parts.dense(ops, read, x, (*path, "reduction"))
