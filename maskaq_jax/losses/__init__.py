"""Every loss of synthesis and fine-tuning, each a function of arrays to a float32 scalar.

Symbols: B images, L layers, H heads, N tokens, n of them patches, d channels a head. Attention
logits A are [B, H, N, N] a layer, before softmax; attention outputs O are [B, H, N, d]. A loss over
layers takes one array [L, ...] or a sequence with one array a layer, and is the mean of the layers'
losses (that of PSAQ-ViT's density their sum). By default a loss is of the images given; `over` a
`GlobalBatch`, of those of every device, padding left out, and the same on each.
"""

import jax.numpy as jnp
from jax import Array

from maskaq_jax.losses._distances import Distance
from maskaq_jax.losses.distillation import (
    FeatureDistance,
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
    variation_gap_loss,
)
from maskaq_jax.losses.outputs import (
    detection_distillation_loss,
    map_distillation_loss,
    segmentation_distillation_loss,
)
from maskaq_jax.losses.targets import Objects, label_map_loss, objects_loss

# The weighted terms of a loss, by their names.
Terms = dict[str, Array]


def total(terms: Terms) -> Array:
    """[] float32, what is minimised; 0 where there are no terms."""
    return sum(terms.values(), start=jnp.zeros(()))


__all__ = [
    "Distance",
    "FeatureDistance",
    "Objects",
    "Terms",
    "class_loss",
    "detection_distillation_loss",
    "distillation_loss",
    "feature_distillation_loss",
    "inter_head_similarity_loss",
    "label_map_loss",
    "map_distillation_loss",
    "masked_attention_distillation_loss",
    "masked_attention_loss",
    "masked_block_distillation_loss",
    "objects_loss",
    "patch_similarity_density_loss",
    "patch_similarity_entropy_loss",
    "segmentation_distillation_loss",
    "total",
    "total_variation_loss",
    "variation_gap_loss",
]
