"""Swin Transformer as what dense models stand on: a normalised map a stage, of images of any size.

What windows, mergings or patches don't cover is padded with zeros, as mmdetection, mmsegmentation
and transformers' backbone do. Parameter names mirror timm's, with a norm for each stage.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
from jax import Array

from maskaq_jax.models import layers, self_attention
from maskaq_jax.models.layer_norm import LayerNorm
from maskaq_jax.models.sites import Part
from maskaq_jax.models.swin import LAYER_NORM_EPSILON, SwinStages


class SwinMaps(SwinStages):
    """A Swin whose stages all give a map; models with a neck and a head derive from it.

    Windows have one size in all stages, and every other block shifts them.
    """

    img_size: int | tuple[int, int] = 512

    def __post_init__(self) -> None:
        # A list, as config files write it, would make the module unhashable.
        object.__setattr__(self, "img_size", layers.image_size(self.img_size))
        super().__post_init__()

    def setup_maps(self) -> None:
        """What comes before the neck; models call it in their `setup`."""
        self.setup_stages()
        self.norm = [LayerNorm(LAYER_NORM_EPSILON, self.dtype) for _ in self.depths]

    def __call__(self, images: Array) -> tuple[Any, dict]:
        """Outputs of images, and what the losses read.

        Args:
          images: [B, *input_shape] float32, normalised.

        Returns:
          outputs: those of `classify`.
          out: `attention_logits`, a tuple of [B * windows, H, N, N] a layer, an image's windows in
            a row; `attention_outputs`, of [B * windows, H, N, d]; `block_outputs`, of
            [B, tokens, C]; and what `classify` names.
        """
        tokens, blocks = self.stage_tokens(images)
        outputs, out = self.classify(tokens)
        return outputs, self_attention.of_blocks(blocks) | out

    def classify(self, tokens: Sequence[Array]) -> tuple[Any, dict]:
        """What follows the stages: tokens [B, rows, columns, C] behind each -> outputs, and more
        that has a name.
        """
        raise NotImplementedError

    def normed_maps(self, tokens: Sequence[Array]) -> tuple[Array, ...]:
        """Maps of tokens behind each stage, [B, rows, columns, C] each."""
        return tuple(norm(x) for norm, x in zip(self.norm, tokens, strict=True))

    @nn.nowrap
    def parts(self) -> tuple[Part, ...]:
        """Mergings and blocks; the last block of each stage is read by the neck."""
        found: list[Part] = []
        for i, stage in enumerate(self.stages()):
            *others, last = stage.parts((f"layers_{i}",))
            found += [*others, last._replace(is_read=True)]
        return tuple(found)
