"""YOLOS (Fang et al. 2021): a DeiT with detection tokens behind its patches and two heads that read
them, one definition for full precision and quantized. Parameter names mirror the authors'.
"""

import functools
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from maskaq_jax import regions
from maskaq_jax.models import layers, self_attention, vit
from maskaq_jax.models.layer_norm import LayerNorm
from maskaq_jax.models.layers import Quantization
from maskaq_jax.models.patch_sequence import PatchSequence
from maskaq_jax.models.protocol import Task
from maskaq_jax.models.self_attention import Attended
from maskaq_jax.models.sites import PRE_NORM_BLOCK, Part, Site

_HEADS = ("class_embed", "bbox_embed")
_HEAD_DEPTH = 3
_position_init = nn.initializers.truncated_normal(0.02)


class PositionedBlock(vit.Block):
    """A block with position embeddings of its own behind it."""

    @nn.compact
    def __call__(self, x: Array) -> Attended:
        """[B, N, C] -> tokens of that shape, and their attention."""
        attended = super().__call__(x)
        positions = self.param("mid_pos_embed", _position_init, (1, *x.shape[1:]))
        return attended._replace(tokens=attended.tokens + positions.astype(self.dtype))


class PredictionHead(nn.Module):
    """Three dense layers with ReLU between them."""

    features: int
    quantization: Quantization | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, tokens, C] -> [B, tokens, features]."""
        for i in range(_HEAD_DEPTH - 1):
            x = jax.nn.relu(layers.dense(self, x.shape[-1], f"layers_{i}")(x))
        return layers.dense(self, self.features, f"layers_{_HEAD_DEPTH - 1}")(x)


class Yolos(PatchSequence, nn.Module):
    """Object detection without anchors: each detection token finds one object, or none.

    Attributes:
      num_classes: of objects; logits have one more, for none.
      quantization: None for full precision.
      img_size: height and width of images, or the side of squares; what patches don't cover of
        their lower and right border is cut.
      patch_size, in_chans, embed_dim, depth, num_heads, mlp_ratio: as of a ViT.
      num_detection_tokens: objects that can be found.
      mid_position_embeddings: whether every block but the last is followed by its own position
        embeddings.
      layer_norm_eps: added to the variance in every norm.
      dtype: compute dtype; parameters, attention logits and softmax stay float32.
    """

    task: ClassVar[Task] = "detection"
    num_classes: int = 91
    quantization: Quantization | None = None
    img_size: int | tuple[int, int] = (800, 1344)
    patch_size: int = 16
    in_chans: int = 3
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    num_detection_tokens: int = 100
    mid_position_embeddings: bool = True
    layer_norm_eps: float = 1e-12
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        # A list, as config files write it, would make the module unhashable.
        object.__setattr__(self, "img_size", layers.image_size(self.img_size))
        layers.check_has_classes("yolos", self.num_classes)
        vit.check_heads(self.embed_dim, self.num_heads)
        if not all(self.patch_grid):
            raise ValueError(
                f"img_size must be at least patch_size={self.patch_size} in height and width, got "
                f"{self.img_size}"
            )
        super().__post_init__()

    @property
    def patches(self) -> regions.PatchTokens:
        """Between the class token and the detection tokens, whose attention tells how informative
        they are: the heads don't read the class token.
        """
        return regions.PatchTokens(
            num_before=1, num_behind=self.num_detection_tokens, scored_by="tokens behind"
        )

    def setup(self) -> None:
        self.patch_embed = layers.PatchEmbed(
            features=self.embed_dim,
            patch_size=self.patch_size,
            quantization=layers.below(self.quantization, "patch_embed"),
            dtype=self.dtype,
        )
        self.cls_token = self._embedding("cls_token", 1)
        self.det_token = self._embedding("det_token", self.num_detection_tokens)
        num_tokens = 1 + math.prod(self.patch_grid) + self.num_detection_tokens
        self.pos_embed = self._embedding("pos_embed", num_tokens)
        self.blocks = [
            layers.traced_once(self._block_class(i), self)(**self._block_arguments(i))
            for i in range(self.depth)
        ]
        self.norm = LayerNorm(self.layer_norm_eps, self.dtype)
        head = functools.partial(PredictionHead, dtype=self.dtype)
        sizes = (self.num_classes + 1, 4)
        self.class_embed, self.bbox_embed = (
            head(size, layers.below(self.quantization, name))
            for size, name in zip(sizes, _HEADS, strict=True)
        )

    def __call__(self, images: Array) -> tuple[dict[str, Array], dict]:
        """Detects objects and exposes what the losses read.

        Args:
          images: [B, *input_shape] float32, normalised.

        Returns:
          outputs: `logits` [B, tokens, num_classes + 1], the last of them for no object;
            `pred_boxes` [B, tokens, 4], each box's centre, width and height as shares of the
            image's width and height, x before y; float32.
          out: `attention_logits`, a tuple of [B, H, N, N] a layer; `attention_outputs`, of
            [B, H, N, d]; `block_outputs`, of [B, N, C]; `tokens` [B, N, C] after the last norm;
            `features` [B, C], the mean of the detection tokens.
        """
        x, of_blocks = self_attention.through(self.blocks, self.embed(images))
        outputs, out = self.classify(x)
        return outputs, of_blocks | out

    def embed(self, images: Array) -> Array:
        """Tokens before the first block: [B, *input_shape] -> [B, N, C]."""
        layers.check_images(images, self.input_shape)
        rows, columns = self.patch_grid
        x = self.patch_embed(images[:, : rows * self.patch_size, : columns * self.patch_size])
        x = x.reshape(len(x), rows * columns, self.embed_dim)
        before, behind = (
            jnp.broadcast_to(token, (len(x), *token.shape[1:]))
            for token in (self.cls_token, self.det_token)
        )
        return jnp.concatenate([before, x, behind], axis=1) + self.pos_embed

    def classify(self, x: Array) -> tuple[dict[str, Array], dict]:
        """What follows the last block: tokens [B, N, C] -> outputs, `tokens` and `features`."""
        x = self.norm(x)
        found = x[:, -self.num_detection_tokens :]
        outputs = {
            "logits": self.class_embed(found).astype(jnp.float32),
            "pred_boxes": jax.nn.sigmoid(self.bbox_embed(found).astype(jnp.float32)),
        }
        features = found.astype(jnp.float32).mean(axis=1)
        return outputs, {"tokens": x.astype(jnp.float32), "features": features}

    @nn.nowrap
    def parts(self) -> tuple[Part, ...]:
        """The blocks, each of which can be applied by itself to its part of the variables."""
        return tuple(
            Part(
                (f"blocks_{i}",),
                self._block_class(i)(**self._block_arguments(i)),
                PRE_NORM_BLOCK,
            )
            for i in range(self.depth)
        )

    @nn.nowrap
    def head_sites(self) -> tuple[Site, ...]:
        """Inputs of both heads' layers."""
        # The norm before both is left alone: features are behind it too, and compared with P's.
        return tuple(Site((head, f"layers_{i}")) for head in _HEADS for i in range(_HEAD_DEPTH))

    @nn.nowrap
    def _block_class(self, index: int) -> type[vit.Block]:
        has_positions = self.mid_position_embeddings and index < self.depth - 1
        return PositionedBlock if has_positions else vit.Block

    @nn.nowrap
    def _block_arguments(self, index: int) -> dict[str, Any]:
        return {
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "init_values": None,
            "quantization": layers.below(self.quantization, f"blocks_{index}"),
            "dtype": self.dtype,
            "epsilon": self.layer_norm_eps,
        }

    def _embedding(self, name: str, length: int) -> Array:
        init = _position_init
        return self.param(name, init, (1, length, self.embed_dim)).astype(self.dtype)
