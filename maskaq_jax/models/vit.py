"""Vision Transformer and DeiT (Dosovitskiy et al. 2021, Touvron et al. 2021), one definition for
full precision and quantized. Parameter names mirror timm's.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from maskaq_jax import regions
from maskaq_jax.models import layers, self_attention
from maskaq_jax.models.layer_norm import LayerNorm
from maskaq_jax.models.layers import Quantization

_LAYER_NORM_EPSILON = 1e-6


class LayerScale(nn.Module):
    """Learned factor per channel (Touvron et al. 2021b); the parameter is `gamma`, as in timm."""

    init_value: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[tokens, C] -> [tokens, C]."""
        gamma = self.param("gamma", nn.initializers.constant(self.init_value), (x.shape[-1],))
        return x * gamma.astype(x.dtype)[None]


class Attention(nn.Module):
    """Multi-head self-attention; its logits are without `1/sqrt(d)` (A in `docs/method.md`)."""

    num_heads: int
    quantization: Quantization | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        """[B, N, C] -> tokens [B, N, C], logits [B, H, N, N] and outputs [B, H, N, d]."""
        channels = x.shape[-1]
        scale = (channels // self.num_heads) ** -0.5
        qkv = layers.Dense(3 * channels, self.quantization, self.dtype, name="qkv")(x)
        x, logits, outputs = self_attention.attend(
            self,
            *self_attention.split_heads(qkv, self.num_heads),
            adjust=lambda logits: logits * scale,
            quantization=self.quantization,
        )
        x = layers.Dense(channels, self.quantization, self.dtype, name="proj")(x)
        return x, logits, outputs


class Block(nn.Module):
    """Pre-norm transformer block."""

    num_heads: int
    mlp_ratio: float
    init_values: float | None
    quantization: Quantization | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        """[B, N, C] -> tokens, logits and outputs as `Attention`."""

        def branch(y: Array, name: str) -> Array:
            return y if self.init_values is None else LayerScale(self.init_values, name=name)(y)

        shape = x.shape
        # XLA tiles a GPU's work in powers of two, which N is not (`docs/performance.md`).
        rows = x.reshape(-1, shape[-1])
        normed = LayerNorm(_LAYER_NORM_EPSILON, self.dtype, name="norm1")(rows)
        attended, logits, outputs = Attention(
            self.num_heads, self.quantization, self.dtype, name="attn"
        )(normed.reshape(shape))
        rows = rows + branch(attended.reshape(rows.shape), "ls1")
        normed = LayerNorm(_LAYER_NORM_EPSILON, self.dtype, name="norm2")(rows)
        hidden_features = int(shape[-1] * self.mlp_ratio)
        hidden = layers.Mlp(hidden_features, self.quantization, self.dtype, name="mlp")(normed)
        rows = rows + branch(hidden, "ls2")
        return rows.reshape(shape), logits, outputs


class VisionTransformer(nn.Module):
    """ViT, and DeiT with or without its distillation token.

    Attributes:
      num_classes: 0 for no classifier; the logits are then the pooled features.
      quantization: None for full precision.
      img_size, patch_size, in_chans, embed_dim, depth, num_heads, mlp_ratio: as in timm.
      init_values: LayerScale's initial value, None for no LayerScale.
      distilled: adds a distillation token with its own head; logits are the mean of both heads.
      dtype: compute dtype; parameters, attention logits and softmax stay float32.
    """

    num_classes: int = 1000
    quantization: Quantization | None = None
    img_size: int = 224
    patch_size: int = 16
    in_chans: int = 3
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    init_values: float | None = None
    distilled: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        layers.check_patches(self.img_size, self.patch_size)
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim must be a multiple of num_heads, got embed_dim={self.embed_dim} and "
                f"num_heads={self.num_heads}"
            )
        super().__post_init__()

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: class token and, in a distilled DeiT, distillation token."""
        return 2 if self.distilled else 1

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        return self.img_size, self.img_size, self.in_chans

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patch tokens."""
        return self.img_size // self.patch_size, self.img_size // self.patch_size

    def patch_regions(self, attention_logits: Sequence[Array], ratio: float) -> Array:
        """[B, rows * columns] 1 for the informative patches, for a picture of them."""
        return regions.informative_regions(attention_logits, ratio, self.num_prefix_tokens)

    @nn.compact
    def __call__(self, images: Array) -> tuple[Array, dict]:
        """Classifies images and exposes what the losses read.

        Args:
          images: [B, img_size, img_size, in_chans] float32, normalised.

        Returns:
          logits: [B, num_classes] float32 (the features if num_classes is 0).
          out: `attention_logits`, a tuple of [B, H, N, N] a layer; `attention_outputs`, of
            [B, H, N, d]; `block_outputs`, of [B, N, C]; `tokens` [B, N, C] after the last norm;
            `features` [B, C], pooled.
        """
        layers.check_images(images, self.input_shape)
        x = layers.PatchEmbed(
            self.embed_dim, self.patch_size, self.quantization, self.dtype, name="patch_embed"
        )(images)
        batch, rows, columns, channels = x.shape
        prefix = [self._embedding("cls_token", 1)]
        if self.distilled:
            prefix.append(self._embedding("dist_token", 1))
        tokens = [jnp.broadcast_to(token, (batch, 1, channels)) for token in prefix]
        x = jnp.concatenate([*tokens, x.reshape(batch, rows * columns, channels)], axis=1)
        x = x + self._embedding("pos_embed", x.shape[1])

        block = layers.traced_once(Block, self)
        attention_logits, attention_outputs, block_outputs = [], [], []
        for i in range(self.depth):
            x, logits, outputs = block(
                self.num_heads,
                self.mlp_ratio,
                self.init_values,
                self.quantization,
                self.dtype,
                name=f"blocks_{i}",
            )(x)
            attention_logits.append(logits)
            attention_outputs.append(outputs)
            block_outputs.append(x)
        x = LayerNorm(_LAYER_NORM_EPSILON, self.dtype, name="norm")(x).astype(jnp.float32)

        features = x[:, : self.num_prefix_tokens].mean(axis=1)
        out = {
            "attention_logits": tuple(attention_logits),
            "attention_outputs": tuple(attention_outputs),
            "block_outputs": tuple(block_outputs),
            "tokens": x,
            "features": features,
        }
        if self.num_classes == 0:
            return features, out
        logits = self._head("head", x[:, 0])
        if self.distilled:
            logits = (logits + self._head("head_dist", x[:, 1])) / 2
        return logits, out

    def _embedding(self, name: str, length: int) -> Array:
        init = nn.initializers.truncated_normal(0.02)
        return self.param(name, init, (1, length, self.embed_dim)).astype(self.dtype)

    def _head(self, name: str, x: Array) -> Array:
        head = layers.Dense(self.num_classes, self.quantization, self.dtype, name=name)
        return head(x).astype(jnp.float32)
