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

from maskaq_jax import losses, regions
from maskaq_jax.devices.global_batch import LOCAL, GlobalBatch
from maskaq_jax.devices.keys import image_keys, named_key
from maskaq_jax.models import Model, full_precision
from maskaq_jax.schema import NonNegativeFloat
from maskaq_jax.synthesis.targets import target_loss

# Terms of the images alone, which ask nothing of a model.
IMAGE_TERMS = ("total_variation", "variation_gap")


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Factors of the loss terms; a term with factor 0 is not computed.

    MaskAQ's come first; PSAQ-ViT has `classes`, `density` and `variation_gap`.

    Attributes:
      similarity: of the heads' attention.
      classes: of what P is to find: the class; or objects, or a label map (`synthesis/targets.py`).
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
class SynthesisBatch:
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
    key: Array, batch: SynthesisBatch, images: Array, over: GlobalBatch = LOCAL
) -> Array:
    """[] roughness that PSAQ-ViT pulls a batch to: uniform in [2500, 3000] for its 32 images of 224
    px, and as the norm grows, with the root of their number and area. A batch has its own.
    """
    first = over.min_over_devices(batch.indices.min())
    key = jax.random.fold_in(named_key(key, "variation"), first)
    target = jax.random.uniform(key, (), minval=2500.0, maxval=3000.0)
    count = over.count(len(images))
    _, height, width, _ = images.shape
    return target * jnp.sqrt(count * height * width / (32 * 224 * 224))


def image_terms(
    weights: LossWeights,
    images: Array,
    variation_target: Array | float = 0.0,
    over: GlobalBatch = LOCAL,
) -> losses.Terms:
    """The weighted terms of images alone, which need no model and see the whole batch.

    Args:
      weights: factors of the terms.
      images: [B, height, width, channels].
      variation_target: [] roughness that `variation_gap` pulls to.
      over: the global batch.

    Returns:
      Term name -> [] float32, weight applied.
    """
    terms = {}
    if weights.total_variation:
        terms["total_variation"] = weights.total_variation * losses.total_variation_loss(
            images, over=over
        )
    if weights.variation_gap:
        terms["variation_gap"] = weights.variation_gap * losses.variation_gap_loss(
            images, variation_target, over=over
        )
    return terms


def model_terms(
    model: Model,
    weights: LossWeights,
    batch: SynthesisBatch,
    views: Array,
    ratio: Array | float,
    drop_rate: float,
    key: Array,
    over: GlobalBatch = LOCAL,
    *,
    progress: Array | float,
    target_keys: Array,
) -> losses.Terms:
    """The weighted terms that P and Q are asked for: each is a mean over the images.

    `coupling` is one too, since as many patches are coupled in every image
    (`regions.coupled_regions`).

    Args:
      model: Q; P is its full-precision clone.
      weights: factors of the terms.
      batch: numbers and labels of the images; P's weights and Q's variables.
      views: [B, height, width, channels], augmented.
      ratio: [] share of patches in the informative regions.
      drop_rate: share of these dropped at random.
      key: of this step.
      over: the global batch.
      progress: [] share of the steps that are done; what detectors and segmenters are to find
        depends on it.
      target_keys: [B] of what they are to find, the same in each step.

    Returns:
      Term name -> [] float32, weight applied.
    """
    patches = model.patches
    outputs, out = full_precision(model).apply({"params": batch.params}, views)
    attention_p = out["attention_logits"]
    terms = {}
    if weights.similarity:
        terms["similarity"] = weights.similarity * losses.inter_head_similarity_loss(
            attention_p, patches, over=over
        )
    if weights.classes:
        classes = target_loss(model, outputs, batch.labels, target_keys, progress, over)
        terms["classes"] = weights.classes * classes
    if weights.density:
        terms["density"] = weights.density * losses.patch_similarity_density_loss(
            out["attention_outputs"], patches, over=over
        )
    if weights.coupling:
        _, out_q = model.apply(batch.variables, views)
        keys = image_keys(named_key(key, "drop"), batch.indices)
        masks = regions.coupled_regions(attention_p, ratio, drop_rate, keys, patches)
        terms["coupling"] = weights.coupling * losses.masked_attention_loss(
            attention_p, out_q["attention_logits"], masks, patches, over=over
        )
    if weights.entropy:
        terms["entropy"] = weights.entropy * losses.patch_similarity_entropy_loss(
            attention_p, patches, named_key(key, "rows"), over=over
        )
    return terms
