"""Synthesis: optimises images until P finds them class-like and P and Q attend to them alike.

Source: `docs/method.md` section 2. Functions are written for one device of a mapped axis; losses
are those of the global batch.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from maskaq_jax import augment, losses, microbatches, noise, randomness, reductions, regions
from maskaq_jax.models import Model
from maskaq_jax.pixels import Pixels
from maskaq_jax.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, Share

Terms = dict[str, Array]


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


@dataclasses.dataclass(frozen=True)
class Settings:
    """The paper's settings of synthesis.

    Attributes:
      num_steps: optimisation steps of each image.
      learning_rate: AdamW's at the start of the cosine.
      final_learning_rate: at its end.
      weight_decay: AdamW's.
      weights: factors of the loss terms.
      view: how each step jitters the images.
      initial_ratio: share of patches in the informative regions at the start.
      final_ratio: share at the end.
      drop_rate: share of the informative patches dropped at random.
      smoothness: standard deviation of the Gaussian that the first noise and the updates are
        blurred with, as a share of the image side; it falls linearly to 0 over the run.
      smoothness_spread: makes images of different smoothness: each has its own, log-uniform up to
        `exp(spread)` times more or less.
      contrast: standard deviation each blurred first image is scaled to, which blurring lowers;
        training images have 1 by the definition of the normalisation. 0 leaves it as it is.
      balanced_labels: image i is made for class i modulo classes, instead of a random class.
    """

    num_steps: PositiveInt = 2000
    learning_rate: PositiveFloat = 0.1
    final_learning_rate: NonNegativeFloat = 0.001
    weight_decay: NonNegativeFloat = 1e-6
    weights: LossWeights = LossWeights()
    view: augment.SynthesisView = augment.SynthesisView()
    initial_ratio: Share = 0.5
    final_ratio: Share = 0.1
    drop_rate: Share = 0.3
    smoothness: NonNegativeFloat = 0.0
    smoothness_spread: NonNegativeFloat = 0.0
    contrast: NonNegativeFloat = 0.0
    balanced_labels: bool = False


@dataclasses.dataclass(frozen=True)
class Spec:
    """All that is static in a step: the settings and what pixels are."""

    settings: Settings
    pixels: Pixels


@flax.struct.dataclass
class State:
    """What a step updates.

    Attributes:
      step: [] int32 steps taken.
      images: [B, height, width, channels] float32, normalised.
      opt_state: the optimiser's.
    """

    step: Array
    images: Array
    opt_state: Any


@flax.struct.dataclass
class Batch:
    """What a step reads.

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


def create_optimizer(settings: Settings) -> optax.GradientTransformation:
    """AdamW on a cosine from `learning_rate` to `final_learning_rate`."""
    schedule = optax.cosine_decay_schedule(
        settings.learning_rate,
        settings.num_steps,
        alpha=settings.final_learning_rate / settings.learning_rate,
    )
    return optax.adamw(schedule, b1=0.9, b2=0.999, weight_decay=settings.weight_decay)


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


def init_state(optimizer: optax.GradientTransformation, images: Array) -> State:
    """The state before the first step."""
    return State(jnp.zeros((), jnp.int32), images, optimizer.init(images))


def roughness_terms(
    settings: Settings,
    batch: Batch,
    images: Array,
    axis_name: str | None = None,
    variation_target: Array | float = 0.0,
) -> Terms:
    """The weighted terms that no model is needed for: norms over the whole batch.

    Args:
      settings: weights.
      batch: which images are valid.
      images: [B, height, width, channels].
      axis_name: mapped axis of the global batch.
      variation_target: [] roughness that `variation_gap` pulls to.

    Returns:
      Term name -> [] float32, weight applied.
    """
    weights = settings.weights
    terms = {}
    if weights.total_variation:
        terms["total_variation"] = weights.total_variation * losses.total_variation_loss(
            images, axis_name, batch.valid
        )
    if weights.variation_gap:
        variation = losses.total_variation_loss(images, axis_name, batch.valid, diagonal_weight=1.0)
        terms["variation_gap"] = weights.variation_gap * jnp.abs(variation - variation_target)
    return terms


def model_terms(
    model: Model,
    settings: Settings,
    batch: Batch,
    views: Array,
    ratio: Array | float,
    key: Array,
    axis_name: str | None = None,
) -> Terms:
    """The weighted terms that P and Q are asked for: each is a mean over the images.

    `coupling` is one since all images have as many patches coupled (`regions.coupled_regions`).

    Args:
      model: Q; P is its full-precision clone.
      settings: weights and the drop rate.
      batch: labels, weights and variables.
      views: [B, height, width, channels], augmented.
      ratio: [] share of patches in the informative regions.
      key: of this step.
      axis_name: mapped axis of the global batch.

    Returns:
      Term name -> [] float32, weight applied.
    """
    weights = settings.weights
    prefix = model.num_prefix_tokens
    logits, out = model.clone(quantization=None).apply({"params": batch.params}, views)
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
        masks = regions.coupled_regions(attention_p, ratio, settings.drop_rate, keys, prefix)
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


def step(
    model: Model,
    optimizer: optax.GradientTransformation,
    spec: Spec,
    state: State,
    batch: Batch,
    key: Array,
    axis_name: str | None = None,
    num_parts: int = 1,
) -> tuple[State, Terms]:
    """One optimisation step of a batch of images.

    Args:
      model: Q.
      optimizer: of `create_optimizer`.
      spec: settings and pixels.
      state: the device's share of the images.
      batch: the device's share of the labels; both models' weights.
      key: of this synthesis; draws are folded with image and step.
      axis_name: mapped axis of the global batch.
      num_parts: equal parts of the device's images, which the models see one after the other; how
        many changes nothing but the rounding, the time and the memory.

    Returns:
      The new state and the weighted loss terms before it, of the global batch.
    """
    settings, pixels = spec.settings, spec.pixels
    smoothness = noise.draw_smoothness(
        key, batch.indices, settings.smoothness, settings.smoothness_spread
    )
    variation_target = draw_variation_target(key, batch, state.images, axis_name)
    key = jax.random.fold_in(key, state.step)
    view_key = randomness.named_key(key, "view")
    ratio = regions.mask_ratio(
        state.step, settings.num_steps, settings.initial_ratio, settings.final_ratio
    )

    def model_loss(
        images: Array, indices_and_labels: tuple[Array, Array], valid: Array | None
    ) -> tuple[Array, Terms]:
        indices, labels = indices_and_labels
        keys = randomness.image_keys(view_key, indices)
        views = augment.synthesis_view(keys, images, state.step, settings.num_steps, settings.view)
        part = dataclasses.replace(batch, indices=indices, labels=labels, valid=valid)
        terms = model_terms(model, settings, part, views, ratio, key, axis_name)
        return _total(terms), terms

    def roughness_loss(images: Array) -> tuple[Array, Terms]:
        terms = roughness_terms(settings, batch, images, axis_name, variation_target)
        return _total(terms), terms

    gradient, terms = microbatches.image_gradient(
        model_loss,
        state.images,
        (batch.indices, batch.labels),
        num_parts=num_parts,
        axis_name=axis_name,
        valid=batch.valid,
    )
    roughness_gradient, rest = jax.grad(roughness_loss, has_aux=True)(state.images)
    gradient, terms = gradient + roughness_gradient, terms | rest
    if axis_name is not None:
        # Every device differentiates the global loss, so its images' gradient arrives once from
        # each of them.
        gradient = gradient / jax.lax.axis_size(axis_name)
    if pixels.grey:
        gradient = jnp.broadcast_to(gradient.mean(axis=-1, keepdims=True), gradient.shape)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.images)
    if settings.smoothness:
        remaining = 1 - state.step / settings.num_steps
        updates = noise.blur(updates, remaining * smoothness)
    low, high = (bound[None, None, None] for bound in pixels.bounds())
    images = jnp.clip(optax.apply_updates(state.images, updates), low, high)
    return State(state.step + 1, images, opt_state), terms


def synthesize(
    model: Model,
    optimizer: optax.GradientTransformation,
    spec: Spec,
    state: State,
    batch: Batch,
    key: Array,
    num_steps: Array | int,
    axis_name: str | None = None,
    num_parts: int = 1,
) -> tuple[State, Terms]:
    """`num_steps` (at least 1) of `step` in one compiled loop; terms are those of the last step."""

    def take_step(state: State) -> tuple[State, Terms]:
        return step(model, optimizer, spec, state, batch, key, axis_name, num_parts)

    # Their names are known without tracing a step for them.
    weights = dataclasses.asdict(spec.settings.weights)
    terms = {name: jnp.zeros(()) for name, weight in weights.items() if weight}
    return jax.lax.fori_loop(0, num_steps, lambda _, carry: take_step(carry[0]), (state, terms))


def _total(terms: Terms) -> Array:
    return sum(terms.values(), start=jnp.zeros(()))
