"""Swin Transformer as what dense models stand on: a normalised map a stage, of images of any size.

What windows, mergings or patches don't cover is padded with zeros, as mmdetection, mmsegmentation
and transformers' backbone do. Parameter names mirror timm's, with a norm for each stage.
"""

import itertools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from maskaq_jax import regions
from maskaq_jax.models import layers, swin
from maskaq_jax.models.layer_norm import LayerNorm
from maskaq_jax.models.layers import Quantization
from maskaq_jax.models.self_attention import Attended
from maskaq_jax.models.sites import Part
from maskaq_jax.regions import WindowGrid


class SwinMaps(nn.Module):
    """A Swin whose stages all give a map; models with a neck and a head derive from it.

    Attributes:
      quantization: None for full precision.
      img_size: height and width of images, or the side of squares.
      patch_size, in_chans, embed_dim, depths, num_heads, window_size, mlp_ratio: as in timm, but
        that windows have that size in all stages, and every other block shifts them.
      dtype: compute dtype; parameters, attention logits and softmax stay float32.
    """

    quantization: Quantization | None = None
    img_size: int | tuple[int, int] = 512
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
        object.__setattr__(self, "img_size", layers.image_size(self.img_size))
        swin.check_stages(self.embed_dim, self.depths, self.num_heads)
        super().__post_init__()

    @property
    def patches(self) -> regions.PatchTokens:
        """Every token of a window that is not padding, scored by what it receives from others."""
        grids = tuple(
            WindowGrid(*self.grid(stage), self.window_size, self._shift(block))
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
        rows, columns = WindowGrid(*self.grid(0), self.window_size).padded
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
        num_images = len(first_block) * self.window_size**2 // (rows * columns)
        patches = regions.PatchTokens(0, scored_by="all patches", shared=False, grids=(grid,))
        (mask,) = regions.window_regions([first_block], ratio, num_images, patches)
        return self._on_last_grid(mask)

    def _last_unshifted(self, attention_logits: Sequence[Array]) -> Array:
        """Those of the last stage's first block, whose windows are not shifted."""
        return attention_logits[-self.depths[-1]]

    @nn.nowrap
    def _last_grid(self) -> WindowGrid:
        return WindowGrid(*self.patch_grid, self.window_size)

    def _on_last_grid(self, values: Array) -> Array:
        """[B, rows * columns] of values of the tokens of the last stage's windows, in any shape."""
        grid = self._last_grid()
        windows = values.reshape(-1, self.window_size**2, 1)
        merged = swin.merge_windows(windows, self.window_size, *grid.padded)
        return merged[:, : grid.rows, : grid.columns].reshape(len(merged), -1)

    def setup_maps(self) -> None:
        """What comes before the neck; models call it in their `setup`."""
        self.patch_embed = layers.PatchEmbed(
            features=self.embed_dim,
            patch_size=self.patch_size,
            quantization=layers.below(self.quantization, "patch_embed"),
            dtype=self.dtype,
            norm_epsilon=swin.LAYER_NORM_EPSILON,
        )
        self.layers = self._stages()
        self.norm = [LayerNorm(swin.LAYER_NORM_EPSILON, self.dtype) for _ in self.depths]

    def embed(self, images: Array) -> Array:
        """Tokens before the first stage: images [B, *input_shape] -> [B, rows, columns, C]."""
        layers.check_images(images, self.input_shape)
        return self.patch_embed(swin.pad_grid(images, self.patch_size))

    def stage_tokens(self, images: Array) -> tuple[tuple[Array, ...], list[Attended]]:
        """Tokens behind each stage, on their grids, and what each block gives."""
        x, tokens, blocks = self.embed(images), [], list[Attended]()
        for stage in self.layers:
            x, stage_blocks = stage(x)
            tokens.append(x)
            blocks += stage_blocks
        return tuple(tokens), blocks

    def normed_maps(self, tokens: Sequence[Array]) -> tuple[Array, ...]:
        """Maps of tokens behind each stage, [B, rows, columns, C] each."""
        return tuple(norm(x) for norm, x in zip(self.norm, tokens, strict=True))

    @nn.nowrap
    def parts(self) -> tuple[Part, ...]:
        """Mergings and blocks; the last block of each stage is read by the neck."""
        found: list[Part] = []
        for i, stage in enumerate(self._stages()):
            *others, last = stage.parts((f"layers_{i}",))
            found += [*others, last._replace(is_read=True)]
        return tuple(found)

    @nn.nowrap
    def grid(self, stage: int) -> tuple[int, int]:
        """Rows and columns of a stage's tokens."""
        rows, columns = (
            math.ceil(math.ceil(size / self.patch_size) / 2**stage)
            for size in layers.image_size(self.img_size)
        )
        return rows, columns

    @nn.nowrap
    def _stages(self) -> list[swin.Stage]:
        stages = zip(self.depths, self.num_heads, itertools.count())
        return [
            swin.Stage(
                depth=depth,
                num_heads=heads,
                window=self.window_size,
                shift=self._shift(1),
                merges=i > 0,
                mlp_ratio=self.mlp_ratio,
                quantization=layers.below(self.quantization, f"layers_{i}"),
                dtype=self.dtype,
            )
            for depth, heads, i in stages
        ]

    @nn.nowrap
    def _shift(self, block: int) -> int:
        return self.window_size // 2 if block % 2 else 0
