"""Semantic segmentation by one linear layer on a ViT's patches, as DINOv2 is evaluated (Oquab et
al. 2023). The batch norm before that layer is part of it: a trained model's is a fixed factor.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from maskaq_jax import regions
from maskaq_jax.models import layers, maps
from maskaq_jax.models.layers import Quantization
from maskaq_jax.models.patch_sequence import PatchSequence
from maskaq_jax.models.protocol import Task
from maskaq_jax.models.sites import Part, Site
from maskaq_jax.models.vit import VisionTransformer


class LinearSegmenter(PatchSequence, nn.Module):
    """A ViT whose normed patches are classified, and the logits resized to the image.

    Attributes:
      num_classes: told apart at each pixel.
      quantization: None for full precision.
      img_size, patch_size, in_chans, embed_dim, depth, num_heads, mlp_ratio, init_values,
        reg_tokens, no_embed_class, layer_norm_eps: as of `VisionTransformer`.
      dtype: compute dtype; parameters, attention logits and softmax stay float32.
    """

    task: ClassVar[Task] = "segmentation"
    num_classes: int = 150
    quantization: Quantization | None = None
    img_size: int = 518
    patch_size: int = 14
    in_chans: int = 3
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    init_values: float | None = 1e-5
    reg_tokens: int = 0
    no_embed_class: bool = False
    layer_norm_eps: float = 1e-6
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        layers.check_has_classes("vit_linear_seg", self.num_classes)
        self.apart()  # which refuses sizes that don't fit
        super().__post_init__()

    @property
    def patches(self) -> regions.PatchTokens:
        """Behind the class token and registers, scored by all of them: the head reads no other."""
        return self.apart().patches

    def setup(self) -> None:
        self.backbone = self._backbone()
        # Its parameters stand beside the head's, as in a classifier.
        nn.share_scope(self, self.backbone)
        own = layers.below(self.quantization, "decode_head")
        self.decode_head = layers.Dense(self.num_classes, own, self.dtype)

    def __call__(self, images: Array) -> tuple[Array, dict]:
        """Classifies pixels and exposes what the losses read.

        Args:
          images: [B, img_size, img_size, in_chans] float32, normalised.

        Returns:
          logits: [B, img_size, img_size, num_classes] float32.
          out: as of `VisionTransformer`; `features` [B, C] are the mean of the patches, and
            `feature_maps` a tuple of one map of them, [B, rows, columns, C].
        """
        _, out = self.backbone(images)
        logits, own = self._segment(out)
        return logits, out | own

    def embed(self, images: Array) -> Array:
        """Tokens before the first block: [B, *input_shape] -> [B, N, C]."""
        return self.backbone.embed(images)

    def classify(self, x: Array) -> tuple[Array, dict]:
        """What follows the last block: tokens [B, N, C] -> logits, `tokens` and `features`."""
        _, out = self.backbone.classify(x)
        logits, own = self._segment(out)
        return logits, out | own

    @nn.nowrap
    def parts(self) -> tuple[Part, ...]:
        """The blocks, each of which can be applied by itself to its part of the variables."""
        return self.apart().parts()

    @nn.nowrap
    def head_sites(self) -> tuple[Site, ...]:
        """The head's input."""
        # Its norm is left alone: features are behind it too, and are compared with P's.
        return (Site(("decode_head",)),)

    def _segment(self, out: dict) -> tuple[Array, dict]:
        """Logits at the image's size, and the map that they are of."""
        patches = out["tokens"][:, self.patches.num_before :]
        grid = patches.reshape(len(patches), *self.patch_grid, self.embed_dim)
        logits = self.decode_head(grid).astype(jnp.float32)
        logits = maps.resize_bilinear(logits, self.img_size, self.img_size)
        return logits, {"feature_maps": (grid,)}

    @nn.nowrap
    def _backbone(self) -> VisionTransformer:
        return VisionTransformer(num_classes=0, **self._arguments())

    @nn.nowrap
    def apart(self) -> VisionTransformer:
        """The ViT by itself, for what it says of itself."""
        return VisionTransformer(num_classes=0, parent=None, **self._arguments())

    @nn.nowrap
    def _arguments(self) -> dict:
        return {
            "quantization": self.quantization,
            "img_size": self.img_size,
            "patch_size": self.patch_size,
            "in_chans": self.in_chans,
            "embed_dim": self.embed_dim,
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "init_values": self.init_values,
            "reg_tokens": self.reg_tokens,
            "no_embed_class": self.no_embed_class,
            "layer_norm_eps": self.layer_norm_eps,
            "dtype": self.dtype,
            # Every patch counts alike, and the last norm is before whatever reads them.
            "global_pool": "avg",
            "fc_norm": False,
        }
