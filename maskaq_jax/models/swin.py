"""Swin Transformer (Liu et al. 2021), one definition for full precision and quantized. Parameter
names mirror timm's.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from maskaq_jax import regions
from maskaq_jax.models import layers, self_attention
from maskaq_jax.models.layer_norm import LayerNorm
from maskaq_jax.models.layers import Quantization

_LAYER_NORM_EPSILON = 1e-5
# Keeps tokens that only the shift made neighbours apart.
_MASKED = -100.0


def split_windows(x: Array, window: int) -> Array:
    """[B, rows, columns, C] -> [B * windows, window^2, C], an image's windows row by row."""
    batch, rows, columns, channels = x.shape
    x = x.reshape(batch, rows // window, window, columns // window, window, channels)
    return jnp.swapaxes(x, 2, 3).reshape(-1, window * window, channels)


def merge_windows(x: Array, window: int, grid: int) -> Array:
    """The inverse of `split_windows`, to a grid of `grid` by `grid` tokens."""
    x = x.reshape(-1, grid // window, grid // window, window, window, x.shape[-1])
    return jnp.swapaxes(x, 2, 3).reshape(-1, grid, grid, x.shape[-1])


@functools.cache
def _relative_position_index(window: int) -> np.ndarray:
    """[window^2, window^2] row of the bias table for each query and key of a window."""
    position = np.stack(np.divmod(np.arange(window * window), window))
    row, column = position[:, :, None] - position[:, None] + window - 1
    return row * (2 * window - 1) + column


def _shift_mask(grid: int, window: int, shift: int) -> Array:
    """[windows, window^2, window^2] 0 for a query and a key that are neighbours in the image."""
    # Rolled by `shift`, the last window of each axis holds two parts of the image.
    part = np.digitize(np.arange(grid), [grid - window, grid - shift])
    parts = jnp.asarray(3 * part[:, None] + part)[None, :, :, None]
    parts = split_windows(parts, window)[..., 0]
    return jnp.where(parts[:, :, None] == parts[:, None], 0.0, _MASKED)


class WindowAttention(nn.Module):
    """Self-attention within windows, with a learned bias for each relative position.

    Its logits are of the scaled query, before bias and mask (`docs/method.md`).
    """

    num_heads: int
    window: int
    quantization: Quantization | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, mask: Array | None) -> tuple[Array, Array, Array]:
        """Attends in each window.

        Args:
          x: [B * windows, N, C].
          mask: [windows, N, N] added to the logits; None for none.

        Returns:
          Tokens, logits and outputs as `self_attention.attend`.
        """
        tokens, channels = x.shape[1:]
        table = self.param(
            "relative_position_bias_table",
            nn.initializers.truncated_normal(0.02),
            ((2 * self.window - 1) ** 2, self.num_heads),
        )
        bias = jnp.moveaxis(table[_relative_position_index(self.window)], -1, 0)[None, None]
        if mask is not None:
            bias = bias + mask[None, :, None]

        def adjust(logits: Array) -> Array:
            by_image = logits.reshape(-1, bias.shape[1], self.num_heads, tokens, tokens)
            return (by_image + bias).reshape(logits.shape)

        qkv = layers.Dense(3 * channels, self.quantization, self.dtype, name="qkv")(x)
        query, key, value = self_attention.split_heads(qkv, self.num_heads)
        query = query * (channels // self.num_heads) ** -0.5
        x, logits, outputs = self_attention.attend(
            self, query, key, value, adjust, self.quantization
        )
        x = layers.Dense(channels, self.quantization, self.dtype, name="proj")(x)
        return x, logits, outputs


class Block(nn.Module):
    """Pre-norm transformer block on windows, shifted by `shift` tokens."""

    num_heads: int
    window: int
    shift: int
    mlp_ratio: float
    quantization: Quantization | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        """[B, grid, grid, C] -> the same, and logits and outputs as `WindowAttention`."""
        grid = x.shape[1]
        normed = LayerNorm(_LAYER_NORM_EPSILON, self.dtype, name="norm1")(x)
        mask = None
        if self.shift:
            normed = jnp.roll(normed, (-self.shift, -self.shift), axis=(1, 2))
            mask = _shift_mask(grid, self.window, self.shift)
        attended, logits, outputs = WindowAttention(
            self.num_heads, self.window, self.quantization, self.dtype, name="attn"
        )(split_windows(normed, self.window), mask)
        attended = merge_windows(attended, self.window, grid)
        x = x + jnp.roll(attended, (self.shift, self.shift), axis=(1, 2))
        normed = LayerNorm(_LAYER_NORM_EPSILON, self.dtype, name="norm2")(x)
        hidden_features = int(x.shape[-1] * self.mlp_ratio)
        mlp = layers.Mlp(hidden_features, self.quantization, self.dtype, name="mlp")
        return x + mlp(normed), logits, outputs


class PatchMerging(nn.Module):
    """Halves the grid and doubles the channels."""

    quantization: Quantization | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, grid, grid, C] -> [B, grid / 2, grid / 2, 2 C]."""
        batch, rows, columns, channels = x.shape
        x = x.reshape(batch, rows // 2, 2, columns // 2, 2, channels)
        # Neighbours in a column before neighbours in a row, as the weights expect them.
        x = jnp.transpose(x, (0, 1, 3, 4, 2, 5)).reshape(batch, rows // 2, columns // 2, -1)
        x = LayerNorm(_LAYER_NORM_EPSILON, self.dtype, name="norm")(x)
        return layers.Dense(
            2 * channels, self.quantization, self.dtype, use_bias=False, name="reduction"
        )(x)


class Stage(nn.Module):
    """Blocks of one resolution, after merging patches unless it is the first stage."""

    depth: int
    num_heads: int
    window: int
    shift: int
    downsample: bool
    mlp_ratio: float
    quantization: Quantization | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, list[Array], list[Array], list[Array]]:
        """[B, grid, grid, C] -> tokens; of each block its logits, outputs and tokens in a row."""
        if self.downsample:
            x = PatchMerging(self.quantization, self.dtype, name="downsample")(x)
        block = layers.traced_once(Block, self)
        all_logits, all_outputs, all_blocks = [], [], []
        for i in range(self.depth):
            x, logits, outputs = block(
                self.num_heads,
                self.window,
                self.shift if i % 2 else 0,
                self.mlp_ratio,
                self.quantization,
                self.dtype,
                name=f"blocks_{i}",
            )(x)
            all_logits.append(logits)
            all_outputs.append(outputs)
            all_blocks.append(x.reshape(len(x), -1, x.shape[-1]))
        return x, all_logits, all_outputs, all_blocks


class Head(nn.Module):
    """The classifier, nested as timm nests it."""

    num_classes: int
    quantization: Quantization | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return layers.Dense(self.num_classes, self.quantization, self.dtype, name="fc")(x)


class SwinTransformer(nn.Module):
    """Swin Transformer.

    Attributes:
      num_classes: 0 for no classifier; the logits are then the pooled features.
      quantization: None for full precision.
      img_size, patch_size, in_chans, embed_dim, depths, num_heads, window_size, mlp_ratio: as in
        timm; a stage whose grid is no larger than the window has one window, of the grid's size.
      dtype: compute dtype; parameters, attention logits and softmax stay float32.
    """

    num_classes: int = 1000
    quantization: Quantization | None = None
    img_size: int = 224
    patch_size: int = 4
    in_chans: int = 3
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        # Lists, as config files write them, would make the module unhashable.
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "num_heads", tuple(self.num_heads))
        layers.check_patches(self.img_size, self.patch_size)
        if not self.depths or len(self.depths) != len(self.num_heads):
            raise ValueError(
                f"depths and num_heads must have a value for each stage, got "
                f"depths={self.depths} and num_heads={self.num_heads}"
            )
        for stage, heads in enumerate(self.num_heads):
            channels, grid = self.embed_dim * 2**stage, self._grid(stage)
            if channels % heads:
                raise ValueError(
                    f"stage {stage} has {channels} channels, which its {heads} heads don't divide"
                )
            if grid * 2**stage * self.patch_size != self.img_size or grid % self._window(stage):
                raise ValueError(
                    f"img_size={self.img_size} leaves stage {stage} a grid that windows of "
                    f"window_size={self.window_size} don't cover; with patch_size="
                    f"{self.patch_size}, a multiple of {self._whole_size()} fits"
                )
        super().__post_init__()

    @property
    def num_prefix_tokens(self) -> int:
        """0: every token is a patch."""
        return 0

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        return self.img_size, self.img_size, self.in_chans

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patch tokens in the last stage."""
        return self._grid(len(self.depths) - 1), self._grid(len(self.depths) - 1)

    def patch_regions(self, attention_logits: Sequence[Array], ratio: float) -> Array:
        """[B, rows * columns] 1 for the informative patches of the last stage, for a picture."""
        stage = len(self.depths) - 1
        first_block = attention_logits[-self.depths[-1]]  # whose windows are not shifted
        window, grid = self._window(stage), self._grid(stage)
        num_images = len(first_block) // (grid // window) ** 2
        (mask,) = regions.window_regions([first_block], ratio, num_images)
        mask = merge_windows(mask.reshape(-1, window * window, 1), window, grid)
        return mask.reshape(num_images, grid * grid)

    @nn.compact
    def __call__(self, images: Array) -> tuple[Array, dict]:
        """Classifies images and exposes what the losses read.

        Args:
          images: [B, img_size, img_size, in_chans] float32, normalised.

        Returns:
          logits: [B, num_classes] float32 (the features if num_classes is 0).
          out: `attention_logits`, a tuple of [B * windows, H, N, N] a layer, an image's windows in
            a row; `attention_outputs`, of [B * windows, H, N, d]; `block_outputs`, of
            [B, grid * grid, C]; `tokens` [B, grid, grid, C] after the last norm; `features` [B, C],
            pooled.
        """
        layers.check_images(images, self.input_shape)
        x = layers.PatchEmbed(
            self.embed_dim,
            self.patch_size,
            self.quantization,
            self.dtype,
            _LAYER_NORM_EPSILON,
            name="patch_embed",
        )(images)
        attention_logits, attention_outputs, block_outputs = [], [], []
        for i, (depth, heads) in enumerate(zip(self.depths, self.num_heads, strict=True)):
            window = self._window(i)
            x, logits, outputs, blocks = Stage(
                depth,
                heads,
                window,
                window // 2 if window < self._grid(i) else 0,
                i > 0,
                self.mlp_ratio,
                self.quantization,
                self.dtype,
                name=f"layers_{i}",
            )(x)
            attention_logits += logits
            attention_outputs += outputs
            block_outputs += blocks
        x = LayerNorm(_LAYER_NORM_EPSILON, self.dtype, name="norm")(x).astype(jnp.float32)
        features = x.mean(axis=(1, 2))
        out = {
            "attention_logits": tuple(attention_logits),
            "attention_outputs": tuple(attention_outputs),
            "block_outputs": tuple(block_outputs),
            "tokens": x,
            "features": features,
        }
        if self.num_classes == 0:
            return features, out
        head = Head(self.num_classes, self.quantization, self.dtype, name="head")
        return head(features).astype(jnp.float32), out

    def _grid(self, stage: int) -> int:
        return self.img_size // (self.patch_size * 2**stage)

    def _window(self, stage: int) -> int:
        return max(1, min(self.window_size, self._grid(stage)))

    def _whole_size(self) -> int:
        """An image side that every stage's windows divide."""
        return self.patch_size * 2 ** (len(self.depths) - 1) * self.window_size
