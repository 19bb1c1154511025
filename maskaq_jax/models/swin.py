"""Swin Transformer (Liu et al. 2021), one definition for full precision and quantized. Parameter
names mirror timm's.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from maskaq_jax import regions
from maskaq_jax.models import layers, self_attention, windows
from maskaq_jax.models.layer_norm import LayerNorm
from maskaq_jax.models.layers import Quantization
from maskaq_jax.models.protocol import Task
from maskaq_jax.models.self_attention import Attended
from maskaq_jax.models.sites import MERGING, PRE_NORM_BLOCK, Part, Site
from maskaq_jax.regions import WindowGrid

LAYER_NORM_EPSILON = 1e-5


def _check_stages(embed_dim: int, depths: Sequence[int], num_heads: Sequence[int]) -> None:
    """Raises ValueError where stages and heads don't fit each other, or heads the channels."""
    if not depths or len(depths) != len(num_heads):
        raise ValueError(
            f"depths and num_heads must have a value for each stage, got depths={depths} and "
            f"num_heads={num_heads}"
        )
    for stage, heads in enumerate(num_heads):
        channels = embed_dim * 2**stage
        if channels % heads:
            raise ValueError(
                f"stage {stage} has {channels} channels, which its {heads} heads don't divide"
            )


class WindowAttention(nn.Module):
    """Self-attention within windows, with a learned bias for each relative position.

    Its logits are of the scaled query, before bias and mask (`docs/method.md`).
    """

    num_heads: int
    window: int
    quantization: Quantization | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, mask: Array | None) -> Attended:
        """Attends in each window.

        Args:
          x: [B * windows, N, C].
          mask: [windows, N, N] added to the logits; None for none.

        Returns:
          Tokens of x's shape, and their attention.
        """
        tokens, channels = x.shape[1:]
        table = self.param(
            "relative_position_bias_table",
            nn.initializers.truncated_normal(0.02),
            ((2 * self.window - 1) ** 2, self.num_heads),
        )
        bias = jnp.moveaxis(table[windows.relative_position_index(self.window)], -1, 0)[None, None]
        if mask is not None:
            bias = bias + mask[None, :, None]

        def adjust(logits: Array) -> Array:
            by_image = logits.reshape(-1, bias.shape[1], self.num_heads, tokens, tokens)
            return (by_image + bias).reshape(logits.shape)

        qkv = layers.dense(self, 3 * channels, "qkv")(x)
        query, key, value = self_attention.split_heads(qkv, self.num_heads)
        query = query * (channels // self.num_heads) ** -0.5
        attended = self_attention.attend(self, query, key, value, adjust, self.quantization)
        proj = layers.dense(self, channels, "proj")
        return attended._replace(tokens=proj(attended.tokens))


class Block(nn.Module):
    """Pre-norm transformer block on windows, shifted by `shift` tokens.

    A grid that windows don't cover is padded with zeros behind the norm, which attend and are
    attended to as all tokens of their window.
    """

    num_heads: int
    window: int
    shift: int
    mlp_ratio: float
    quantization: Quantization | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Attended:
        """[B, rows, columns, C] -> tokens of that shape, and the attention of their windows."""
        rows, columns = x.shape[1:3]
        normed = LayerNorm(LAYER_NORM_EPSILON, self.dtype, name="norm1")(x)
        normed = windows.pad_grid(normed, self.window)
        grid = normed.shape[1:3]
        mask = None
        if self.shift:
            normed = jnp.roll(normed, (-self.shift, -self.shift), axis=(1, 2))
            mask = windows.shift_mask(grid[0], self.window, self.shift, grid[1])
        attended = WindowAttention(
            num_heads=self.num_heads,
            window=self.window,
            quantization=layers.below(self.quantization, "attn"),
            dtype=self.dtype,
            name="attn",
        )(windows.split_windows(normed, self.window), mask)
        merged = windows.merge_windows(attended.tokens, self.window, *grid)
        x = x + jnp.roll(merged, (self.shift, self.shift), axis=(1, 2))[:, :rows, :columns]
        layers.observe(self, "middle", lambda: x.reshape(-1, x.shape[-1]))
        normed = LayerNorm(LAYER_NORM_EPSILON, self.dtype, name="norm2")(x)
        mlp = layers.Mlp(
            hidden_features=int(x.shape[-1] * self.mlp_ratio),
            quantization=layers.below(self.quantization, "mlp"),
            dtype=self.dtype,
            name="mlp",
        )
        return attended._replace(tokens=x + mlp(normed))

    @nn.nowrap
    def attention_rows(self, x: Array) -> Array:
        """Tokens [B, rows, columns, C] in the order of the attention's rows, [T, C], with the zeros
        that pad them.
        """
        shifted = jnp.roll(
            windows.pad_grid(x, self.window), (-self.shift, -self.shift), axis=(1, 2)
        )
        return windows.split_windows(shifted, self.window).reshape(-1, x.shape[-1])


class PatchMerging(nn.Module):
    """Halves the grid, rounded up, and doubles the channels."""

    quantization: Quantization | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, rows, columns, C] -> [B, rows / 2, columns / 2, 2 C]."""
        x = windows.pad_grid(x, 2)
        batch, rows, columns, channels = x.shape
        x = x.reshape(batch, rows // 2, 2, columns // 2, 2, channels)
        # Neighbours in a column before neighbours in a row, as the weights expect them.
        x = jnp.transpose(x, (0, 1, 3, 4, 2, 5)).reshape(batch, rows // 2, columns // 2, -1)
        x = LayerNorm(LAYER_NORM_EPSILON, self.dtype, name="norm")(x)
        return layers.Dense(
            features=2 * channels,
            quantization=layers.below(self.quantization, "reduction"),
            dtype=self.dtype,
            use_bias=False,
            name="reduction",
        )(x)


class Stage(nn.Module):
    """Blocks of one resolution, after merging patches unless it is the first stage."""

    depth: int
    num_heads: int
    window: int
    shift: int
    merges: bool
    mlp_ratio: float
    quantization: Quantization | None
    dtype: DTypeLike

    def setup(self) -> None:
        if self.merges:
            self.downsample = self._merging()
        block = layers.traced_once(Block, self)
        self.blocks = [block(**self._block_arguments(i)) for i in range(self.depth)]

    def __call__(self, x: Array) -> tuple[Array, list[Attended]]:
        """[B, rows, columns, C] -> tokens on their grid, and of each block [B, tokens, C]."""
        if self.merges:
            x = self.downsample(x)
        blocks: list[Attended] = []
        for block in self.blocks:
            attended = block(x)
            x = attended.tokens
            blocks.append(attended._replace(tokens=x.reshape(len(x), -1, x.shape[-1])))
        return x, blocks

    @nn.nowrap
    def parts(self, path: tuple[str, ...]) -> tuple[Part, ...]:
        """Merging and blocks, below the stage's own path."""
        merging = (Part((*path, "downsample"), self._merging(), MERGING),) if self.merges else ()
        blocks = (
            Part((*path, f"blocks_{i}"), Block(**self._block_arguments(i)), PRE_NORM_BLOCK)
            for i in range(self.depth)
        )
        return (*merging, *blocks)

    @nn.nowrap
    def _merging(self) -> PatchMerging:
        own = layers.below(self.quantization, "downsample")
        return PatchMerging(quantization=own, dtype=self.dtype)

    @nn.nowrap
    def _block_arguments(self, index: int) -> dict[str, Any]:
        return {
            "num_heads": self.num_heads,
            "window": self.window,
            "shift": self.shift if index % 2 else 0,
            "mlp_ratio": self.mlp_ratio,
            "quantization": layers.below(self.quantization, f"blocks_{index}"),
            "dtype": self.dtype,
        }


class Head(nn.Module):
    """The classifier, nested as timm nests it."""

    num_classes: int
    quantization: Quantization | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, C] -> [B, num_classes]."""
        return layers.Dense(
            features=self.num_classes,
            quantization=layers.below(self.quantization, "fc"),
            dtype=self.dtype,
            name="fc",
        )(x)


class SwinStages(nn.Module):
    """Stages of windows, and what they say of their patches; models with a head derive from it.

    What windows don't cover of a grid is padded.

    Attributes:
      quantization: None for full precision.
      img_size: height and width of images, or the side of squares.
      patch_size, in_chans, embed_dim, depths, num_heads, window_size, mlp_ratio: as in timm.
      dtype: compute dtype; parameters, attention logits and softmax stay float32.
    """

    quantization: Quantization | None = None
    img_size: int | tuple[int, int] = 224
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
        _check_stages(self.embed_dim, self.depths, self.num_heads)
        super().__post_init__()

    @property
    def patches(self) -> regions.PatchTokens:
        """Every token of a window that is not padding, scored by what it receives from others."""
        grids = tuple(
            WindowGrid(*self.grid(stage), self.window(stage), self.shift(stage) * (block % 2))
            for stage, depth in enumerate(self.depths)
            for block in range(depth)
        )
        if all(grid.is_whole for grid in grids):
            return regions.WINDOWS
        return regions.PatchTokens(0, scored_by="all patches", shared=False, grids=grids)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        return *layers.image_size(self.img_size), self.in_chans

    @property
    def values_per_image(self) -> int:
        """Numbers in all patches of the first block, those that pad its windows too."""
        rows, columns = WindowGrid(*self.grid(0), self.window(0)).padded
        return rows * columns * self.embed_dim

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patch tokens in the last stage."""
        return self.grid(len(self.depths) - 1)

    def patch_scores(self, attention_logits: Sequence[Array]) -> Array:
        """[B, rows * columns] how informative each patch of the last stage is, for a picture."""
        return self._on_last_grid(self.patches.scores(self._last_unshifted(attention_logits)))

    def patch_regions(self, attention_logits: Sequence[Array], ratio: float) -> Array:
        """[B, rows * columns] 1 for the informative patches of the last stage, for a picture."""
        first_block = self._last_unshifted(attention_logits)
        grid = self._last_grid()
        rows, columns = grid.padded
        num_images = len(first_block) * grid.window**2 // (rows * columns)
        patches = regions.PatchTokens(0, scored_by="all patches", shared=False, grids=(grid,))
        (mask,) = regions.window_regions([first_block], ratio, num_images, patches)
        return self._on_last_grid(mask)

    def setup_stages(self) -> None:
        """What comes before the head; models call it in their `setup`."""
        self.patch_embed = layers.PatchEmbed(
            features=self.embed_dim,
            patch_size=self.patch_size,
            quantization=layers.below(self.quantization, "patch_embed"),
            dtype=self.dtype,
            norm_epsilon=LAYER_NORM_EPSILON,
        )
        self.layers = self.stages()

    def embed(self, images: Array) -> Array:
        """Tokens before the first stage: images [B, *input_shape] -> [B, rows, columns, C]."""
        layers.check_images(images, self.input_shape)
        return self.patch_embed(windows.pad_grid(images, self.patch_size))

    def stage_tokens(self, images: Array) -> tuple[tuple[Array, ...], list[Attended]]:
        """Tokens behind each stage, on their grids, and what each block gives."""
        x, tokens, blocks = self.embed(images), [], list[Attended]()
        for stage in self.layers:
            x, stage_blocks = stage(x)
            tokens.append(x)
            blocks += stage_blocks
        return tuple(tokens), blocks

    @nn.nowrap
    def stages(self) -> list[Stage]:
        """The stages, each of which can be applied by itself."""
        return [
            Stage(
                depth=depth,
                num_heads=heads,
                window=self.window(i),
                shift=self.shift(i),
                merges=i > 0,
                mlp_ratio=self.mlp_ratio,
                quantization=layers.below(self.quantization, f"layers_{i}"),
                dtype=self.dtype,
            )
            for i, (depth, heads) in enumerate(zip(self.depths, self.num_heads, strict=True))
        ]

    @nn.nowrap
    def grid(self, stage: int) -> tuple[int, int]:
        """Rows and columns of a stage's tokens."""
        rows, columns = (
            math.ceil(math.ceil(size / self.patch_size) / 2**stage)
            for size in layers.image_size(self.img_size)
        )
        return rows, columns

    @nn.nowrap
    def window(self, stage: int) -> int:
        """Side of a stage's windows."""
        del stage
        return self.window_size

    @nn.nowrap
    def shift(self, stage: int) -> int:
        """By how many tokens every other block of a stage shifts its windows."""
        return self.window(stage) // 2

    def _last_unshifted(self, attention_logits: Sequence[Array]) -> Array:
        """Those of the last stage's first block, whose windows are not shifted."""
        return attention_logits[-self.depths[-1]]

    @nn.nowrap
    def _last_grid(self) -> WindowGrid:
        return WindowGrid(*self.patch_grid, self.window(len(self.depths) - 1))

    def _on_last_grid(self, values: Array) -> Array:
        """[B, rows * columns] of values of the tokens of the last stage's windows, in any shape."""
        grid = self._last_grid()
        of_windows = values.reshape(-1, grid.window**2, 1)
        merged = windows.merge_windows(of_windows, grid.window, *grid.padded)
        return merged[:, : grid.rows, : grid.columns].reshape(len(merged), -1)


class SwinTransformer(SwinStages):
    """Swin Transformer, a classifier of square images that windows cover.

    A stage whose grid is no larger than the window has one window, of the grid's size.

    Attributes:
      num_classes: 0 for no classifier; the logits are then the pooled features.
    """

    task: ClassVar[Task] = "classification"
    num_classes: int = 1000
    img_size: int = 224

    def __post_init__(self) -> None:
        layers.check_patches(self.img_size, self.patch_size)
        for stage in range(len(self.depths)):
            side, _ = self.grid(stage)
            if side * 2**stage * self.patch_size != self.img_size or side % self.window(stage):
                raise ValueError(
                    f"img_size={self.img_size} leaves stage {stage} a grid that windows of "
                    f"window_size={self.window_size} don't cover; with patch_size="
                    f"{self.patch_size}, a multiple of {self._whole_size()} fits"
                )
        super().__post_init__()

    def setup(self) -> None:
        self.setup_stages()
        self.norm = LayerNorm(LAYER_NORM_EPSILON, self.dtype)
        if self.num_classes:
            self.head = Head(
                num_classes=self.num_classes,
                quantization=layers.below(self.quantization, "head"),
                dtype=self.dtype,
            )

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
        tokens, blocks = self.stage_tokens(images)
        logits, out = self.classify(tokens[-1])
        return logits, self_attention.of_blocks(blocks) | out

    def classify(self, x: Array) -> tuple[Array, dict]:
        """What follows the last stage: tokens on their grid -> logits, `tokens` and `features`."""
        x = self.norm(x).astype(jnp.float32)
        features = x.mean(axis=(1, 2))
        out = {"tokens": x, "features": features}
        if self.num_classes == 0:
            return features, out
        return self.head(features).astype(jnp.float32), out

    @nn.nowrap
    def parts(self) -> tuple[Part, ...]:
        """Mergings and blocks, each of which can be applied by itself."""
        stages = enumerate(self.stages())
        return tuple(part for i, stage in stages for part in stage.parts((f"layers_{i}",)))

    @nn.nowrap
    def head_sites(self) -> tuple[Site, ...]:
        """The classifier's input."""
        # Its norm is left alone: pooled features are behind it too, and are compared with P's.
        return (Site(("head", "fc")),) if self.num_classes else ()

    @nn.nowrap
    def window(self, stage: int) -> int:
        """Side of a stage's windows, at most the grid's."""
        return max(1, min(self.window_size, *self.grid(stage)))

    @nn.nowrap
    def shift(self, stage: int) -> int:
        """By how many tokens every other block of a stage shifts its windows; one isn't shifted."""
        window = self.window(stage)
        return window // 2 if window < min(self.grid(stage)) else 0

    def _whole_size(self) -> int:
        """An image side that every stage's windows divide."""
        return self.patch_size * 2 ** (len(self.depths) - 1) * self.window_size
