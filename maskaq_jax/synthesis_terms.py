"""What a batch of synthesis is asked for: its loss terms, their weights, and what they read.

Source: `docs/method.md` section 2. Functions are written for one device of a mapped axis; losses
are those of the global batch.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import losses, randomness, reductions, regions
from maskaq_jax.models import Model, full_precision
from maskaq_jax.ranges import NonNegativeFloat


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Factors of the loss terms; a term with factor 0 is not computed.

    MaskAQ's come first; PSAQ-ViT has `classes`, `density` and `variation_gap`.

    Attributes:
      similarity: of the heads' attention.
      classes: cross entropy.
      total_variation: roughness.
      coupling: of P's and Q's attention on the informative regions.
      entropy: of the patches' similarities, as if they were normally distributed.
      density: the same, by a kernel density.
      variation_gap: distance of the roughness from a random target.
    """

    similarity: NonNegativeFloat = 1.0
    classes: NonNegativeFloat = 1.0
    total_variation: NonNegativeFloat = 2.5e-5
    coupling: NonNegativeFloat = 0.1
    entropy: NonNegativeFloat = 1.0
    density: NonNegativeFloat = 0.0
    variation_gap: NonNegativeFloat = 0.0


@flax.struct.dataclass
class Batch:
    """What a step of synthesis reads.

    Attributes:
      indices: [B] int32 global numbers of the images.
      labels: [B] int32 classes the images are made for.
      params: P's weights.
      variables: Q's variables.
      valid: [B] bool, false where an image is padding; None where none is.
    """

    indices: Array
    labels: Array
    params: Any
    variables: Any
    valid: Array | None = None


def draw_variation_target(
    key: Array, batch: Batch, images: Array, axis_name: str | None = None
) -> Array:
    """[] roughness that PSAQ-ViT pulls a batch to: uniform in [2500, 3000] for its 32 images of 224
    px, and as the norm grows, with the root of their number and area. A batch has its own.
    """
    first = batch.indices.min()
    if axis_name is not None:
        first = jax.lax.pmin(first, axis_name)
    key = jax.random.fold_in(randomness.named_key(key, "variation"), first)
    target = jax.random.uniform(key, (), minval=2500.0, maxval=3000.0)
    count = reductions.total(jnp.ones(len(images)), axis_name, batch.valid)
    _, height, width, _ = images.shape
    return target * jnp.sqrt(count * height * width / (32 * 224 * 224))


def roughness_terms(
    weights: LossWeights,
    batch: Batch,
    images: Array,
    axis_name: str | None = None,
    variation_target: Array | float = 0.0,
) -> losses.Terms:
    """The weighted terms that no model is needed for: norms over the whole batch.

    Args:
      weights: factors of the terms.
      batch: which images are valid.
      images: [B, height, width, channels].
      axis_name: mapped axis of the global batch.
      variation_target: [] roughness that `variation_gap` pulls to.

    Returns:
      Term name -> [] float32, weight applied.
    """
    terms = {}
    if weights.total_variation:
        terms["total_variation"] = weights.total_variation * losses.total_variation_loss(
            images, axis_name, batch.valid
        )
    if weights.variation_gap:
        variation = losses.total_variation_loss(images, axis_name, batch.valid, diagonal_weight=1.0)
        gap = reductions.absolute(variation - variation_target)
        terms["variation_gap"] = weights.variation_gap * gap
    return terms


def model_terms(
    model: Model,
    weights: LossWeights,
    batch: Batch,
    views: Array,
    ratio: Array | float,
    drop_rate: float,
    key: Array,
    axis_name: str | None = None,
) -> losses.Terms:
    """The weighted terms that P and Q are asked for: each is a mean over the images.

    `coupling` is one too, since as many patches are coupled in every image
    (`regions.coupled_regions`).

    Args:
      model: Q; P is its full-precision clone.
      weights: factors of the terms.
      batch: numbers, labels and validity of the images; P's weights and Q's variables.
      views: [B, height, width, channels], augmented.
      ratio: [] share of patches in the informative regions.
      drop_rate: share of these dropped at random.
      key: of this step.
      axis_name: mapped axis of the global batch.

    Returns:
      Term name -> [] float32, weight applied.
    """
    prefix = model.num_prefix_tokens
    logits, out = full_precision(model).apply({"params": batch.params}, views)
    attention_p = out["attention_logits"]
    terms = {}
    if weights.similarity:
        terms["similarity"] = weights.similarity * losses.inter_head_similarity_loss(
            attention_p, prefix, axis_name, batch.valid
        )
    if weights.classes:
        terms["classes"] = weights.classes * losses.class_loss(
            logits, batch.labels, axis_name, batch.valid
        )
    if weights.density:
        terms["density"] = weights.density * losses.patch_similarity_density_loss(
            out["attention_outputs"], prefix, axis_name=axis_name, valid=batch.valid
        )
    if weights.coupling:
        _, out_q = model.apply(batch.variables, views)
        keys = randomness.image_keys(randomness.named_key(key, "drop"), batch.indices)
        masks = regions.coupled_regions(attention_p, ratio, drop_rate, keys, prefix)
        terms["coupling"] = weights.coupling * losses.masked_attention_loss(
            attention_p, out_q["attention_logits"], masks, prefix, axis_name, batch.valid
        )
    if weights.entropy:
        terms["entropy"] = weights.entropy * losses.patch_similarity_entropy_loss(
            attention_p,
            prefix,
            randomness.named_key(key, "rows"),
            axis_name=axis_name,
            valid=batch.valid,
        )
    return terms
