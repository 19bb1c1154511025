"""Every loss of synthesis and fine-tuning, each a function of arrays to a float32 scalar.

Symbols: B images, L layers, H heads, N tokens, n of them patches, d channels a head. Attention
logits A are [B, H, N, N] a layer, before softmax; attention outputs O are [B, H, N, d]. A loss over
layers takes one array [L, ...] or a sequence with one array a layer, and is the mean of the layers'
losses (that of PSAQ-ViT's density their sum). With `axis_name`, a loss is that of the global batch
over that mapped axis, the same on every device. With `valid`, [B] bool, images where it is false
are padding and don't count.
"""

import jax.numpy as jnp
from jax import Array

from maskaq_jax.losses.distillation import (
    distillation_loss,
    feature_distillation_loss,
    masked_attention_distillation_loss,
    masked_block_distillation_loss,
)
from maskaq_jax.losses.images import (
    class_loss,
    inter_head_similarity_loss,
    masked_attention_loss,
    patch_similarity_density_loss,
    patch_similarity_entropy_loss,
    total_variation_loss,
)

# The weighted terms of a loss, by their names.
Terms = dict[str, Array]


def total(terms: Terms) -> Array:
    """[] float32, what is minimised; 0 where there are no terms."""
    return sum(terms.values(), start=jnp.zeros(()))


__all__ = [
    "Terms",
    "class_loss",
    "distillation_loss",
    "feature_distillation_loss",
    "inter_head_similarity_loss",
    "masked_attention_distillation_loss",
    "masked_attention_loss",
    "masked_block_distillation_loss",
    "patch_similarity_density_loss",
    "patch_similarity_entropy_loss",
    "total",
    "total_variation_loss",
]
