"""UperNet (Xiao et al. 2018) on a Swin Transformer, one definition for full precision and
quantized.

Batch norms are part of the convolutions before them: a trained model's are fixed factors. Parameter
names mirror mmsegmentation's.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from maskaq_jax.models import layers, maps
from maskaq_jax.models.layers import Quantization
from maskaq_jax.models.protocol import Task
from maskaq_jax.models.sites import Site
from maskaq_jax.models.swin_maps import SwinMaps

POOLING_SCALES = (1, 2, 3, 6)


class UperHead(nn.Module):
    """Pools the last map, adds the maps top down, and classifies every place of the first.

    Attributes:
      num_classes: of the logits.
      hidden_size: channels of all that is between.
      quantization: None for full precision.
      dtype: compute dtype.
    """

    num_classes: int
    hidden_size: int
    quantization: Quantization | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Sequence[Array]) -> tuple[Array, tuple[Array, ...]]:
        """Maps, the largest first, -> logits and the pyramid.

        Args:
          x: [B, rows, columns, C] of each stage.

        Returns:
          logits: [B, rows, columns, num_classes] of the first map's size.
          pyramid: maps of `hidden_size` channels: one a stage, and what is made of all of them.
        """
        laterals = [self._pointwise(f"lateral_convs_{i}", stage) for i, stage in enumerate(x[:-1])]
        laterals.append(self._convolved("bottleneck", self._pooled(x[-1])))
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] += maps.resize_bilinear(laterals[i], *laterals[i - 1].shape[1:3])
        pyramid = [
            self._convolved(f"fpn_convs_{i}", lateral) for i, lateral in enumerate(laterals[:-1])
        ]
        pyramid.append(laterals[-1])
        size = pyramid[0].shape[1:3]
        resized = [pyramid[0], *(maps.resize_bilinear(level, *size) for level in pyramid[1:])]
        fused = self._convolved("fpn_bottleneck", jnp.concatenate(resized, axis=-1))
        logits = layers.dense(self, self.num_classes, "conv_seg")(fused)
        return logits, (*pyramid, fused)

    def _pooled(self, x: Array) -> Array:
        """The last map beside its means over bins, [B, rows, columns, C + 4 hidden_size]."""
        pooled = [
            self._pointwise(f"psp_modules_{i}", maps.pool(x, scale))
            for i, scale in enumerate(POOLING_SCALES)
        ]
        resized = (maps.resize_bilinear(bins, *x.shape[1:3]) for bins in pooled)
        return jnp.concatenate([x, *resized], axis=-1)

    def _pointwise(self, name: str, x: Array) -> Array:
        """A 1 x 1 convolution, a dense layer of every place."""
        return jax.nn.relu(layers.dense(self, self.hidden_size, name)(x))

    def _convolved(self, name: str, x: Array) -> Array:
        return jax.nn.relu(layers.conv(self, self.hidden_size, name)(x))


class UperNet(SwinMaps):
    """Semantic segmentation by a Swin Transformer and UperNet's head.

    Attributes:
      num_classes: told apart at each pixel.
      hidden_size: channels of the head.
    """

    task: ClassVar[Task] = "segmentation"
    num_classes: int = 150
    hidden_size: int = 512

    def __post_init__(self) -> None:
        layers.check_has_classes("upernet_swin", self.num_classes)
        super().__post_init__()

    def setup(self) -> None:
        self.setup_maps()
        self.decode_head = UperHead(
            num_classes=self.num_classes,
            hidden_size=self.hidden_size,
            quantization=layers.below(self.quantization, "decode_head"),
            dtype=self.dtype,
        )

    def classify(self, tokens: Sequence[Array]) -> tuple[Array, dict]:
        """What follows the stages.

        Args:
          tokens: [B, rows, columns, C] behind each stage.

        Returns:
          logits: [B, height, width, num_classes] float32.
          out: `feature_maps`, of [B, rows, columns, C] a stage, normed; `pyramid_maps`, as
            `UperHead` returns them; `features` [B, hidden_size], pooled.
        """
        normed = self.normed_maps(tokens)
        logits, pyramid = self.decode_head(normed)
        height, width, _ = self.input_shape
        logits = maps.resize_bilinear(logits.astype(jnp.float32), height, width)
        features = pyramid[-1].astype(jnp.float32).mean(axis=(1, 2))
        return logits, {"feature_maps": normed, "pyramid_maps": pyramid, "features": features}

    @nn.nowrap
    def head_sites(self) -> tuple[Site, ...]:
        """Inputs of the head's convolutions, in the order of a pass."""
        # Norms are left alone: feature maps are behind them too, and are compared with P's.
        sides = range(len(self.depths) - 1)
        names = (
            *(f"lateral_convs_{i}" for i in sides),
            *(f"psp_modules_{i}" for i in range(len(POOLING_SCALES))),
            "bottleneck",
            *(f"fpn_convs_{i}" for i in sides),
            *("fpn_bottleneck", "conv_seg"),
        )
        return tuple(Site(("decode_head", name)) for name in names)
