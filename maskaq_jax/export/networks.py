"""The networks that are exported: what each model computes, written once for all operators.

Where a value is rounded, it is so before it is moved, so that a quarter of the bytes move. The
logits' factor `d^-1/2` is one with the query's step in a ViT; a Swin scales its query before it
rounds it, so that there it is one with the weights. Bias and mask of windows are one constant a
block.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from maskaq_jax import quantizers
from maskaq_jax.export import trees
from maskaq_jax.export.operators import Kernel, Operators, Rounded
from maskaq_jax.models import Model, swin
from maskaq_jax.models.layers import rounds_activations
from maskaq_jax.models.swin import SwinTransformer
from maskaq_jax.models.vit import VisionTransformer
from maskaq_jax.quantizers import ByteGrid
from maskaq_jax.schema import ConfigError

Value = TypeVar("Value")
Path = tuple[str, ...]


def outputs(ops: Operators[Value], model: Model, variables: Any, images: Value) -> Value:
    """What `model.apply(variables, images)` returns first, [B, classes] or [B, features].

    Args:
      ops: who computes it.
      model: Q, or a model in full precision.
      variables: its `params` and `quant`, on the host.
      images: in the form that `ops.patches` takes.

    Raises:
      ConfigError: there is no rule for such a model, or a quantizer has no integer codes.
    """
    read = Reader(model, variables)
    if isinstance(model, VisionTransformer):
        return _vision_transformer(ops, read, model, images)
    if isinstance(model, SwinTransformer):
        return _swin_transformer(ops, read, model, images)
    raise ConfigError(f"there is no rule to export a {type(model).__name__} yet")


class Reader:
    """A model's variables, by the paths of its modules."""

    def __init__(self, model: Model, variables: Mapping[str, Any]):
        self._model, self._variables = model, variables

    def parameter(self, path: Path, name: str) -> np.ndarray:
        """float32."""
        return np.asarray(trees.below(self._variables["params"], path)[name], np.float32)

    def has(self, path: Path) -> bool:
        """Whether a module has parameters."""
        return bool(trees.below(self._variables["params"], path))

    def kernel(self, path: Path) -> Kernel:
        """Of a linear layer."""
        own = trees.below(self._variables["params"], path)
        with jax.ensure_compile_time_eval():  # whoever compiles what is read
            codes = trees.kernel_codes(self._model, self._variables, path)
        weight = np.asarray(own[trees.KERNEL], np.float32) if codes is None else None
        bias = np.asarray(own["bias"], np.float32) if "bias" in own else None
        return Kernel(codes and codes.map(np.asarray), weight, bias)

    def grid(self, path: Path, name: str) -> ByteGrid | None:
        """Of an activation; None in full precision. An operand of attention is a layer itself."""
        layer = path if name == "input" else (*path, name)
        quantization = trees.quantization_of(self._model, layer)
        if not rounds_activations(quantization):
            return None
        try:
            with jax.ensure_compile_time_eval():
                return quantizers.byte_grid(self._quant(path)[name], quantization.activation_bits)
        except ValueError as error:
            raise ConfigError(f"{'/'.join((*path, name))}: {error}") from error

    def factor(self, path: Path) -> np.ndarray | None:
        """[C] of a layer's input channels; None where all are 1."""
        factor = self._quant(path).get("input_factor")
        return None if factor is None or np.all(factor == 1) else np.asarray(factor, np.float32)

    def _quant(self, path: Path) -> Mapping[str, Any]:
        return trees.below(self._variables.get("quant", {}), path)


def _vision_transformer(
    ops: Operators[Value], read: Reader, model: VisionTransformer, images: Value
) -> Value:
    x, epsilon = _embed(ops, read, model, images), model.layer_norm_eps
    num_tokens = model.patches.num_before + math.prod(model.patch_grid)
    heads = Heads((-1,), num_tokens, model.num_heads, model.embed_dim)
    for part in model.parts():
        path = part.path
        normed = _norm(ops, read, (*path, "norm1"), x, epsilon)
        rounded = _quantize(ops, read, normed, (*path, "attn", "qkv"), "input")
        attended = _self_attention(
            *(ops, read, rounded, (*path, "attn"), heads),
            logits_factor=heads.width**-0.5,
            epsilon=epsilon,
        )
        x = ops.add(x, _layer_scaled(ops, read, attended, (*path, "ls1")))
        normed = _norm(ops, read, (*path, "norm2"), x, epsilon)
        hidden = _mlp(ops, read, normed, (*path, "mlp"), model.act_layer)
        x = ops.add(x, _layer_scaled(ops, read, hidden, (*path, "ls2")))
    return _classify(ops, read, model, x)


def _embed(ops: Operators[Value], read: Reader, model: VisionTransformer, images: Value) -> Value:
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
    return _norm(ops, read, ("norm_pre",), x, model.layer_norm_eps) if model.pre_norm else x


def _classify(ops: Operators[Value], read: Reader, model: VisionTransformer, x: Value) -> Value:
    """Tokens behind the last block -> logits [B, classes], or features [B, C]."""
    epsilon, before = model.layer_norm_eps, model.patches.num_before

    def normed(x: Value) -> Value:
        return x if model.has_fc_norm else _norm(ops, read, ("norm",), x, epsilon)

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
        x = _norm(ops, read, ("fc_norm",), x, epsilon)
    if not model.num_classes:
        return ops.reshape(x, (-1, model.embed_dim))
    return _logits(ops, read, model, x, "head")


def _logits(
    ops: Operators[Value], read: Reader, model: VisionTransformer, x: Value, name: str
) -> Value:
    """[B, 1, C] -> [B, classes]. Of rank 2 the product would be a Gemm, which is one of floats."""
    return ops.reshape(_dense(ops, read, x, (name,)), (-1, model.num_classes))


def _attention_pool(
    ops: Operators[Value], read: Reader, model: VisionTransformer, x: Value
) -> Value:
    """Patches [B, n, C] -> what a learned query finds in them, [B, 1, C]."""
    path: Path = ("attn_pool",)
    channels, count = model.embed_dim, math.prod(model.patch_grid)
    one, many = (Heads((-1,), tokens, model.num_heads, channels) for tokens in (1, count))
    projection = read.kernel((*path, "q"))
    assert projection.bias is not None
    # The same for every image, and not rounded before its product with the keys.
    learned = read.parameter(path, "latent") @ projection.values() + projection.bias
    rounded = _quantize(ops, read, x, (*path, "kv"), "input")
    query = _operand(ops, read, ops.constant(learned), path, "query", one)
    key, value = (
        _operand(ops, read, ops.dense(rounded, kernel, _named(path, "kv", name)), path, name, many)
        for name, kernel in zip(("key", "value"), read.kernel((*path, "kv")).split(2), strict=True)
    )
    x = _attend(ops, read, path, one, (query, key, value), logits_factor=one.width**-0.5)
    normed = _norm(ops, read, (*path, "norm"), x, model.layer_norm_eps)
    return ops.add(x, _mlp(ops, read, normed, (*path, "mlp"), model.act_layer))


def _swin_transformer(
    ops: Operators[Value], read: Reader, model: SwinTransformer, images: Value
) -> Value:
    path: Path = ("patch_embed",)
    x = ops.patches(images, read.kernel((*path, "proj")), "patch_embed/proj")
    x = _norm(ops, read, (*path, "norm"), x, swin.LAYER_NORM_EPSILON)
    grid, channels = model.img_size // model.patch_size, model.embed_dim
    for part in model.parts():
        if isinstance(part.module, swin.PatchMerging):
            x = _merge_patches(ops, read, x, part.path, grid, channels)
            grid, channels = grid // 2, 2 * channels
        else:
            x = _window_block(ops, read, x, part.path, part.module, grid, channels)
    x = ops.mean(_norm(ops, read, ("norm",), x, swin.LAYER_NORM_EPSILON), axis=1)
    if model.num_classes:
        x, channels = _dense(ops, read, x, ("head", "fc")), model.num_classes
    return ops.reshape(x, (-1, channels))


def _window_block(
    ops: Operators[Value],
    read: Reader,
    x: Value,
    path: Path,
    block: Any,
    grid: int,
    channels: int,
) -> Value:
    """[B, grid^2, C] -> the same: attention in windows, and the MLP."""
    window, size = block.window, block.window**2
    num_windows = grid**2 // size
    order = _window_order(grid, window, block.shift)
    heads = Heads((-1, num_windows), size, block.num_heads, channels)

    table = ops.constant(read.parameter((*path, "attn"), "relative_position_bias_table"))
    index = swin.relative_position_index(window).reshape(-1)
    bias = ops.reshape(ops.take(table, index, axis=0), (size, size, block.num_heads))
    bias = ops.reshape(ops.transpose(bias, (2, 0, 1)), (1, block.num_heads, size, size))
    if block.shift:
        with jax.ensure_compile_time_eval():
            mask = np.asarray(swin.shift_mask(grid, window, block.shift))
        bias = ops.add(bias, ops.constant(mask[:, None]))

    normed = _norm(ops, read, (*path, "norm1"), x, swin.LAYER_NORM_EPSILON)
    rounded = _quantize(ops, read, normed, (*path, "attn", "qkv"), "input")
    ordered = ops.take(rounded.value, order, axis=1)
    rounded = rounded._replace(value=ops.reshape(ordered, (-1, num_windows, size, channels)))
    attended = _self_attention(
        *(ops, read, rounded, (*path, "attn"), heads),
        query_factor=heads.width**-0.5,
        adjust=lambda logits: ops.add(logits, bias),
    )
    attended = ops.reshape(attended, (-1, grid**2, channels))
    x = ops.add(x, ops.take(attended, np.argsort(order), axis=1))
    normed = _norm(ops, read, (*path, "norm2"), x, swin.LAYER_NORM_EPSILON)
    return ops.add(x, _mlp(ops, read, normed, (*path, "mlp"), "gelu"))


def _window_order(grid: int, window: int, shift: int) -> np.ndarray:
    """[grid^2] token of each place of the windows, which lie one after the other."""
    tokens = np.arange(grid**2).reshape(grid, grid)
    tokens = np.roll(tokens, (-shift, -shift), axis=(0, 1))
    windows = tokens.reshape(grid // window, window, grid // window, window)
    return windows.swapaxes(1, 2).reshape(-1)


def _merge_patches(
    ops: Operators[Value], read: Reader, x: Value, path: Path, grid: int, channels: int
) -> Value:
    """[B, grid^2, C] -> [B, (grid / 2)^2, 2 C]."""
    half = grid // 2
    x = ops.reshape(x, (-1, half, 2, half, 2, channels))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 4, 2, 5)), (-1, half**2, 4 * channels))
    x = _norm(ops, read, (*path, "norm"), x, swin.LAYER_NORM_EPSILON)
    return _dense(ops, read, x, (*path, "reduction"))


class Heads:
    """How tokens [*lead, N, C] become heads [*lead, H, N, d], and these tokens again.

    Attributes:
      width: d.
    """

    def __init__(self, lead: tuple[int, ...], tokens: int, num_heads: int, channels: int):
        self.width = channels // num_heads
        self._whole = (*lead, tokens, channels)
        self._apart = (*lead, tokens, num_heads, self.width)
        self._lead = tuple(range(len(lead)))

    def take_apart(self, ops: Operators[Value], x: Value) -> Value:
        """[*lead, N, C] -> [*lead, N, H, d]."""
        return ops.reshape(x, self._apart)

    def swap(self, ops: Operators[Value], x: Rounded, is_transposed: bool = False) -> Rounded:
        """[*lead, N, H, d] -> [*lead, H, N, d], or [*lead, H, d, N]."""
        first = len(self._lead)
        last = (first + 2, first) if is_transposed else (first, first + 2)
        return x._replace(value=ops.transpose(x.value, (*self._lead, first + 1, *last)))

    def merge(self, ops: Operators[Value], x: Rounded) -> Rounded:
        """[*lead, H, N, d] -> [*lead, N, C]."""
        first = len(self._lead)
        value = ops.transpose(x.value, (*self._lead, first + 1, first, first + 2))
        return x._replace(value=ops.reshape(value, self._whole))


def _self_attention(
    ops: Operators[Value],
    read: Reader,
    x: Rounded,
    path: Path,
    heads: Heads,
    logits_factor: float = 1.0,
    query_factor: float = 1.0,
    epsilon: float = 0.0,
    adjust: Callable[[Value], Value] = lambda logits: logits,
) -> Value:
    """Softmax attention of tokens [*lead, N, C], which are rounded; what `proj` makes of them."""
    kernels = read.kernel((*path, "qkv")).split(3)
    kernels[0] = kernels[0].scaled(query_factor) if query_factor != 1 else kernels[0]
    operands = [
        _operand(
            *(ops, read, ops.dense(x, kernel, _named(path, "qkv", name)), path, name, heads),
            epsilon=epsilon,
        )
        for kernel, name in zip(kernels, ("query", "key", "value"), strict=True)
    ]
    return _attend(ops, read, path, heads, operands, logits_factor, adjust)


# Where queries and keys are normalised, each head by itself.
_NORMS_OF_OPERANDS = {"query": "q_norm", "key": "k_norm", "value": ""}


def _operand(
    ops: Operators[Value],
    read: Reader,
    x: Value,
    path: Path,
    name: str,
    heads: Heads,
    epsilon: float = 0.0,
) -> Rounded:
    """Tokens [*lead, N, C] -> an operand of attention, rounded and with its heads apart."""
    norm, is_key = (*path, _NORMS_OF_OPERANDS[name]), name == "key"
    if read.has(norm):
        x = _norm(ops, read, norm, heads.take_apart(ops, x), epsilon)
        return heads.swap(ops, _quantize(ops, read, x, path, name), is_key)
    rounded = _quantize(ops, read, x, path, name)
    return heads.swap(ops, rounded._replace(value=heads.take_apart(ops, rounded.value)), is_key)


def _attend(
    ops: Operators[Value],
    read: Reader,
    path: Path,
    heads: Heads,
    operands: Sequence[Rounded],
    logits_factor: float = 1.0,
    adjust: Callable[[Value], Value] = lambda logits: logits,
) -> Value:
    """Both products of attention, and what `proj` makes of them, [*lead, N, C].

    Args:
      ops, read, path: who computes, of which variables.
      heads: of the query.
      operands: query [*lead, H, N, d], key [*lead, H, d, M] and value [*lead, H, M, d].
      logits_factor: which logits are multiplied by.
      adjust: what becomes of them before the softmax.
    """
    query, key, value = operands
    logits = ops.product(query, key, logits_factor, _named(path, "logits"))
    probabilities = _quantize(ops, read, ops.softmax(adjust(logits)), path, "probabilities")
    attended = ops.product(probabilities, value, 1.0, _named(path, "outputs"))
    rounded = _quantize(ops, read, attended, (*path, "proj"), "input")
    return ops.dense(heads.merge(ops, rounded), read.kernel((*path, "proj")), _named(path, "proj"))


def _mlp(ops: Operators[Value], read: Reader, x: Value, path: Path, activation: str) -> Value:
    """Two dense layers, and between them an activation by its name in `layers.ACTIVATIONS`."""
    hidden = ops.activation(_dense(ops, read, x, (*path, "fc1")), activation)
    factor = read.factor((*path, "fc2"))
    if factor is not None:
        hidden = ops.multiply(hidden, ops.constant(factor))
    return _dense(ops, read, hidden, (*path, "fc2"))


def _layer_scaled(ops: Operators[Value], read: Reader, x: Value, path: Path) -> Value:
    """Times LayerScale's factors, if there are some."""
    return ops.multiply(x, ops.constant(read.parameter(path, "gamma"))) if read.has(path) else x


def _norm(ops: Operators[Value], read: Reader, path: Path, x: Value, epsilon: float) -> Value:
    scale, bias = (read.parameter(path, name) for name in ("scale", "bias"))
    return ops.layer_norm(x, scale, bias, epsilon)


def _dense(ops: Operators[Value], read: Reader, x: Value, path: Path) -> Value:
    """A dense layer, and the rounding of its input."""
    rounded = _quantize(ops, read, x, path, "input")
    return ops.dense(rounded, read.kernel(path), "/".join(path))


def _quantize(ops: Operators[Value], read: Reader, x: Value, path: Path, name: str) -> Rounded:
    return ops.quantize(x, read.grid(path, name), _named(path, name))


def _named(path: Path, *names: str) -> str:
    return "/".join((*path, *names))
