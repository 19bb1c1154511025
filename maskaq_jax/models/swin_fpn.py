"""Swin Transformer with a feature pyramid (Lin et al. 2017), as Mask R-CNN and Cascade Mask R-CNN
stand on it; their heads are elsewhere. Parameter names mirror mmdetection's.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from maskaq_jax.models import layers, maps
from maskaq_jax.models.layers import Quantization
from maskaq_jax.models.protocol import Task
from maskaq_jax.models.sites import Site
from maskaq_jax.models.swin_maps import SwinMaps


class Pyramid(nn.Module):
    """Adds maps top down, and smooths each.

    Attributes:
      out_channels: of each level.
      quantization: None for full precision.
      dtype: compute dtype.
    """

    out_channels: int
    quantization: Quantization | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Sequence[Array]) -> tuple[Array, ...]:
        """[B, rows, columns, C] of each stage -> levels of `out_channels`, and one more: every
        other place of the last.
        """
        laterals = [
            layers.dense(self, self.out_channels, f"lateral_convs_{i}")(stage)
            for i, stage in enumerate(x)
        ]
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] += maps.resize_nearest(laterals[i], *laterals[i - 1].shape[1:3])
        levels = [
            layers.conv(self, self.out_channels, f"fpn_convs_{i}")(lateral)
            for i, lateral in enumerate(laterals)
        ]
        return (*levels, levels[-1][:, ::2, ::2])


class SwinFpn(SwinMaps):
    """The features that a detector's heads read: a Swin Transformer and a pyramid.

    Attributes:
      num_classes: 0, since there is no classifier.
      out_channels: of each level of the pyramid.
    """

    task: ClassVar[Task] = "features"
    num_classes: int = 0
    out_channels: int = 256

    def __post_init__(self) -> None:
        if self.num_classes:
            raise ValueError(
                f"swin_fpn gives features and has no classes: num_classes must be 0, got "
                f"{self.num_classes}"
            )
        super().__post_init__()

    def setup(self) -> None:
        self.setup_maps()
        self.neck = Pyramid(
            out_channels=self.out_channels,
            quantization=layers.below(self.quantization, "neck"),
            dtype=self.dtype,
        )

    def classify(self, tokens: Sequence[Array]) -> tuple[tuple[Array, ...], dict]:
        """What follows the stages.

        Args:
          tokens: [B, rows, columns, C] behind each stage.

        Returns:
          levels: [B, rows, columns, out_channels] float32, the largest first, one a stage and one
            more.
          out: `feature_maps`, of [B, rows, columns, C] a stage, normed; `features`
            [B, stages * out_channels], the means of the levels but the last.
        """
        normed = self.normed_maps(tokens)
        levels = tuple(level.astype(jnp.float32) for level in self.neck(normed))
        means = [level.mean(axis=(1, 2)) for level in levels[:-1]]
        features = jnp.concatenate(means, axis=-1)
        return levels, {"feature_maps": normed, "features": features}

    @nn.nowrap
    def head_sites(self) -> tuple[Site, ...]:
        """Inputs of the pyramid's convolutions, in the order of a pass."""
        # Norms are left alone: feature maps are behind them too, and are compared with P's.
        kinds = ("lateral_convs", "fpn_convs")
        stages = range(len(self.depths))
        return tuple(Site(("neck", f"{kind}_{i}")) for kind in kinds for i in stages)
