"""Vision Transformer and DeiT (Dosovitskiy et al. 2021, Touvron et al. 2021), one definition for
full precision and quantized, with what DeiT III, DINOv2, MAE, CLIP's and SigLIP's image towers have
otherwise. Parameter names mirror timm's.
"""

import functools
import math
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from maskaq_jax import regions
from maskaq_jax.models import layers, self_attention
from maskaq_jax.models.layer_norm import LayerNorm
from maskaq_jax.models.layers import Quantization
from maskaq_jax.models.patch_sequence import PatchSequence
from maskaq_jax.models.protocol import Task
from maskaq_jax.models.self_attention import Attended
from maskaq_jax.models.sites import ATTENTION_POOL, PRE_NORM_BLOCK, Part, Site

Pooling = Literal["token", "avg", "map"]


def check_heads(embed_dim: int, num_heads: int) -> None:
    """Raises ValueError where heads don't divide the channels."""
    if embed_dim % num_heads:
        raise ValueError(
            f"embed_dim must be a multiple of num_heads, got embed_dim={embed_dim} and "
            f"num_heads={num_heads}"
        )


class LayerScale(nn.Module):
    """Learned factor per channel (Touvron et al. 2021b); the parameter is `gamma`, as in timm."""

    init_value: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[tokens, C] -> [tokens, C]."""
        gamma = self.param("gamma", nn.initializers.constant(self.init_value), (x.shape[-1],))
        return x * gamma.astype(x.dtype)[None]


class Attention(nn.Module):
    """Multi-head self-attention; its logits are without `1/sqrt(d)` (A in `docs/method.md`).

    Attributes:
      num_heads: H.
      quantization: None for full precision.
      dtype: compute dtype.
      qkv_bias: whether query, key and value have a bias.
      qk_norm: whether queries and keys are normalised, each head by itself.
      epsilon: of these norms.
    """

    num_heads: int
    quantization: Quantization | None = None
    dtype: DTypeLike = jnp.float32
    qkv_bias: bool = True
    qk_norm: bool = False
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Attended:
        """[B, N, C] -> tokens of that shape, and their attention."""
        channels = x.shape[-1]
        scale = (channels // self.num_heads) ** -0.5
        qkv = layers.dense(self, 3 * channels, "qkv", use_bias=self.qkv_bias)(x)
        query, key, value = self_attention.split_heads(qkv, self.num_heads)
        if self.qk_norm:
            query = LayerNorm(self.epsilon, self.dtype, name="q_norm")(query)
            key = LayerNorm(self.epsilon, self.dtype, name="k_norm")(key)
        attended = self_attention.attend(
            self,
            *(query, key, value),
            adjust=lambda logits: logits * scale,
            quantization=self.quantization,
        )
        proj = layers.dense(self, channels, "proj")
        return attended._replace(tokens=proj(attended.tokens))


class Block(nn.Module):
    """Pre-norm transformer block."""

    num_heads: int
    mlp_ratio: float
    init_values: float | None
    quantization: Quantization | None
    dtype: DTypeLike
    qkv_bias: bool = True
    qk_norm: bool = False
    act_layer: str = "gelu"
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Attended:
        """[B, N, C] -> tokens of that shape, and their attention."""

        def branch(y: Array, name: str) -> Array:
            return y if self.init_values is None else LayerScale(self.init_values, name=name)(y)

        shape = x.shape
        # XLA tiles a GPU's work in powers of two, which N is not (`docs/performance.md`).
        rows = x.reshape(-1, shape[-1])
        normed = LayerNorm(self.epsilon, self.dtype, name="norm1")(rows)
        attended = Attention(
            num_heads=self.num_heads,
            quantization=layers.below(self.quantization, "attn"),
            dtype=self.dtype,
            qkv_bias=self.qkv_bias,
            qk_norm=self.qk_norm,
            epsilon=self.epsilon,
            name="attn",
        )(normed.reshape(shape))
        rows = rows + branch(attended.tokens.reshape(rows.shape), "ls1")
        layers.observe(self, "middle", lambda: rows)
        normed = LayerNorm(self.epsilon, self.dtype, name="norm2")(rows)
        hidden = layers.Mlp(
            hidden_features=int(shape[-1] * self.mlp_ratio),
            quantization=layers.below(self.quantization, "mlp"),
            dtype=self.dtype,
            act_layer=self.act_layer,
            name="mlp",
        )(normed)
        rows = rows + branch(hidden, "ls2")
        return attended._replace(tokens=rows.reshape(shape))

    @nn.nowrap
    def attention_rows(self, x: Array) -> Array:
        """Tokens [B, N, C] in the order of the attention's rows, [B * N, C]."""
        return x.reshape(-1, x.shape[-1])


class AttentionPool(nn.Module):
    """A learned query attends to all tokens, and an MLP follows (Zhai et al. 2022).

    timm's AttentionPoolLatent. The query's projection is the same for every image, a constant, and
    stays in full precision.
    """

    num_heads: int
    mlp_ratio: float
    quantization: Quantization | None
    dtype: DTypeLike
    act_layer: str
    epsilon: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[B, N, C] -> [B, C]."""
        batch, _, channels = x.shape
        scale = (channels // self.num_heads) ** -0.5
        init = nn.initializers.truncated_normal(channels**-0.5)
        latent = self.param("latent", init, (1, 1, channels)).astype(self.dtype)
        query = layers.Dense(channels, dtype=self.dtype, name="q")(latent)
        query = jnp.broadcast_to(query, (batch, 1, channels))
        key, value = jnp.split(layers.dense(self, 2 * channels, "kv")(x), 2, axis=-1)

        def heads(y: Array) -> Array:
            y = y.reshape(batch, -1, self.num_heads, channels // self.num_heads)
            return jnp.moveaxis(y, 2, 1)

        attended = self_attention.attend(
            self,
            *(heads(query), heads(key), heads(value)),
            adjust=lambda logits: logits * scale,
            quantization=self.quantization,
        )
        rows = layers.dense(self, channels, "proj")(attended.tokens[:, 0])
        normed = LayerNorm(self.epsilon, self.dtype, name="norm")(rows)
        hidden = layers.Mlp(
            hidden_features=int(channels * self.mlp_ratio),
            quantization=layers.below(self.quantization, "mlp"),
            dtype=self.dtype,
            act_layer=self.act_layer,
            name="mlp",
        )(normed)
        return rows + hidden


class VisionTransformer(PatchSequence, nn.Module):
    """ViT, and DeiT with or without its distillation token.

    Attributes:
      num_classes: 0 for no classifier; the logits are then the pooled features.
      quantization: None for full precision.
      img_size, patch_size, in_chans, embed_dim, depth, num_heads, mlp_ratio: as in timm.
      init_values: LayerScale's initial value, None for no LayerScale.
      distilled: adds a distillation token with its own head; logits are the mean of both heads.
      dtype: compute dtype; parameters, attention logits and softmax stay float32.
      global_pool: what the classifier reads: the class token ('token'), the mean of the patches
        ('avg') or what a learned query finds in them ('map').
      fc_norm: whether the last norm is behind the pooling, named `fc_norm`, instead of before it;
        None for whether the pooling is 'avg'.
      class_token: whether there is one.
      reg_tokens: registers, tokens between the class token and the patches.
      no_embed_class: whether position embeddings are of the patches alone.
      qkv_bias: whether query, key and value have a bias.
      qk_norm: whether queries and keys are normalised.
      pre_norm: whether there is a norm before the blocks, and no bias in the patch embedding.
      act_layer: activation of the MLPs, a name of `layers.ACTIVATIONS`.
      layer_norm_eps: added to the variance in every norm.
    """

    task: ClassVar[Task] = "classification"
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
    global_pool: Pooling = "token"
    fc_norm: bool | None = None
    class_token: bool = True
    reg_tokens: int = 0
    no_embed_class: bool = False
    qkv_bias: bool = True
    qk_norm: bool = False
    pre_norm: bool = False
    act_layer: str = "gelu"
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        layers.check_patches(self.img_size, self.patch_size)
        check_heads(self.embed_dim, self.num_heads)
        if self.global_pool == "token" and not self.class_token:
            raise ValueError(
                "class_token=False leaves no token to pool: set global_pool to 'avg' or 'map'"
            )
        if self.distilled and (self.reg_tokens or self.global_pool != "token"):
            raise ValueError("distilled models have no registers, and pool class tokens")
        super().__post_init__()

    @property
    def patches(self) -> regions.PatchTokens:
        """Behind the class token, a distilled DeiT's distillation token, and registers.

        The class token tells how informative they are where the model classifies by it.
        """
        num_before = self.class_token + self.distilled + self.reg_tokens
        scored_by: Literal["class token", "all patches"] = (
            "class token" if self.global_pool == "token" else "all patches"
        )
        return regions.PatchTokens(num_before=num_before, scored_by=scored_by)

    @property
    def has_fc_norm(self) -> bool:
        """Whether the last norm is behind the pooling."""
        return self.global_pool == "avg" if self.fc_norm is None else self.fc_norm

    def setup(self) -> None:
        self.patch_embed = layers.PatchEmbed(
            features=self.embed_dim,
            patch_size=self.patch_size,
            quantization=layers.below(self.quantization, "patch_embed"),
            dtype=self.dtype,
            use_bias=not self.pre_norm,
        )
        if self.class_token:
            self.cls_token = self._embedding("cls_token", 1)
        if self.distilled:
            self.dist_token = self._embedding("dist_token", 1)
        if self.reg_tokens:
            self.reg_token = self._embedding("reg_token", self.reg_tokens)
        num_tokens = math.prod(self.patch_grid)
        if not self.no_embed_class:
            num_tokens += self.patches.num_before
        self.pos_embed = self._embedding("pos_embed", num_tokens)
        norm = functools.partial(LayerNorm, self.layer_norm_eps, self.dtype)
        if self.pre_norm:
            self.norm_pre = norm()
        block = layers.traced_once(Block, self)
        self.blocks = [block(**self._block_arguments(f"blocks_{i}")) for i in range(self.depth)]
        if self.has_fc_norm:
            self.fc_norm_layer = norm(name="fc_norm")
        else:
            self.norm = norm()
        if self.global_pool == "map":
            self.attn_pool = self._attention_pool()
        if self.num_classes:
            self.head = self._classifier("head")
            if self.distilled:
                self.head_dist = self._classifier("head_dist")

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
        x, of_blocks = self_attention.through(self.blocks, self.embed(images))
        logits, out = self.classify(x)
        return logits, of_blocks | out

    def embed(self, images: Array) -> Array:
        """Tokens before the first block: [B, img_size, img_size, in_chans] -> [B, N, C]."""
        layers.check_images(images, self.input_shape)
        x = self.patch_embed(images)
        batch, rows, columns, channels = x.shape
        prefix = [self.cls_token] if self.class_token else []
        prefix += [self.dist_token] if self.distilled else []
        prefix += [self.reg_token] if self.reg_tokens else []
        tokens = [jnp.broadcast_to(token, (batch, *token.shape[1:])) for token in prefix]
        x = x.reshape(batch, rows * columns, channels)
        if self.no_embed_class:
            x = jnp.concatenate([*tokens, x + self.pos_embed], axis=1)
        else:
            x = jnp.concatenate([*tokens, x], axis=1) + self.pos_embed
        return self.norm_pre(x) if self.pre_norm else x

    def classify(self, x: Array) -> tuple[Array, dict]:
        """What follows the last block: tokens [B, N, C] -> logits, `tokens` and `features`."""
        x = x if self.has_fc_norm else self.norm(x)
        features = self._pool(x).astype(jnp.float32)
        x = x.astype(jnp.float32)
        if self.has_fc_norm:
            features = self.fc_norm_layer(features).astype(jnp.float32)
        out = {"tokens": x, "features": features}
        if self.num_classes == 0:
            return features, out
        logits = self.head(x[:, 0] if self.distilled else features).astype(jnp.float32)
        if self.distilled:
            logits = (logits + self.head_dist(x[:, 1]).astype(jnp.float32)) / 2
        return logits, out

    def _pool(self, x: Array) -> Array:
        """[B, N, C] -> [B, C]."""
        if self.global_pool == "map":
            return self.attn_pool(x[:, self.patches.num_before :])
        x = x.astype(jnp.float32)
        if self.global_pool == "avg":
            return x[:, self.patches.num_before :].mean(axis=1)
        return x[:, : 1 + self.distilled].mean(axis=1)

    @nn.nowrap
    def parts(self) -> tuple[Part, ...]:
        """The blocks, each of which can be applied by itself to its part of the variables."""
        names = (f"blocks_{i}" for i in range(self.depth))
        return tuple(
            Part((name,), Block(**self._block_arguments(name)), PRE_NORM_BLOCK) for name in names
        )

    @nn.nowrap
    def head_sites(self) -> tuple[Site, ...]:
        """What attention pooling rounds, and the inputs of the classifiers."""
        # Their norm is left alone: pooled features are behind it too, and are compared with P's.
        names = ("head", "head_dist") if self.distilled else ("head",)
        heads = tuple(Site((name,)) for name in names) if self.num_classes else ()
        return (ATTENTION_POOL if self.global_pool == "map" else ()) + heads

    @nn.nowrap
    def _block_arguments(self, name: str) -> dict[str, Any]:
        return {
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "init_values": self.init_values,
            "quantization": layers.below(self.quantization, name),
            "dtype": self.dtype,
            "qkv_bias": self.qkv_bias,
            "qk_norm": self.qk_norm,
            "act_layer": self.act_layer,
            "epsilon": self.layer_norm_eps,
        }

    def _attention_pool(self) -> AttentionPool:
        return AttentionPool(
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            quantization=layers.below(self.quantization, "attn_pool"),
            dtype=self.dtype,
            act_layer=self.act_layer,
            epsilon=self.layer_norm_eps,
        )

    def _classifier(self, name: str) -> layers.Dense:
        return layers.Dense(self.num_classes, layers.below(self.quantization, name), self.dtype)

    def _embedding(self, name: str, length: int) -> Array:
        init = nn.initializers.truncated_normal(0.02)
        return self.param(name, init, (1, length, self.embed_dim)).astype(self.dtype)
