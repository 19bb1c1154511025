"""Synthesis: optimises images until P finds them class-like and P and Q attend to them alike.

Source: `docs/method.md` section 2. Functions are written for one device of a mapped axis; losses
are those of the global batch.
"""

import dataclasses
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from maskaq_jax import losses, regions, schema
from maskaq_jax.devices.global_batch import GlobalBatch
from maskaq_jax.devices.keys import image_keys, named_key
from maskaq_jax.images import backgrounds, noise
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.images.views import SynthesisView, synthesis_view
from maskaq_jax.models import Model
from maskaq_jax.schema import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat
from maskaq_jax.synthesis import microbatches
from maskaq_jax.synthesis import terms as synthesis_terms
from maskaq_jax.synthesis.terms import LossWeights, SynthesisBatch


@dataclasses.dataclass(frozen=True)
class SynthesisSettings:
    """The paper's settings of synthesis.

    Attributes:
      num_steps: optimisation steps of each image; 0 leaves the first images as they are.
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
      contrast: standard deviation each blurred first image is scaled to, before it has a
        background; blurring lowers it, and training images have 1 by the definition of the
        normalisation. 0 leaves it as it is.
      background: 'black' or 'white' makes each image in a random box, and the rest is that colour;
        'auto' is the one of the two that P chooses; 'none' has no box.
      balanced_labels: image i is made for class i modulo classes, instead of a random class.
      first_images: what synthesis starts from: 'noise', blurred and scaled as the fields above say,
        'leaves', shapes that cover one another (`images/dead_leaves.py`), or 'mixture', these and
        three other kinds of drawn images (`images/mixture.py`).
    """

    num_steps: NonNegativeInt = 2000
    learning_rate: PositiveFloat = 0.1
    final_learning_rate: NonNegativeFloat = 0.001
    weight_decay: NonNegativeFloat = 1e-6
    weights: LossWeights = LossWeights()
    view: SynthesisView = SynthesisView()
    initial_ratio: Fraction = 0.5
    final_ratio: Fraction = 0.1
    drop_rate: Fraction = 0.3
    smoothness: NonNegativeFloat = 0.0
    smoothness_spread: NonNegativeFloat = 0.0
    contrast: NonNegativeFloat = 0.0
    background: backgrounds.Background = "none"
    balanced_labels: bool = False
    first_images: Literal["noise", "leaves", "mixture"] = schema.added("noise")


@dataclasses.dataclass(frozen=True)
class SynthesisSpec:
    """All that is static in a step: the settings and what pixels are."""

    settings: SynthesisSettings
    pixels: Pixels


@flax.struct.dataclass
class SynthesisState:
    """What a step updates.

    Attributes:
      step: [] int32 steps taken.
      images: [B, height, width, channels] float32, normalised.
      opt_state: the optimiser's.
    """

    step: Array
    images: Array
    opt_state: Any


def create_optimizer(settings: SynthesisSettings) -> optax.GradientTransformation:
    """AdamW on a cosine from `learning_rate` to `final_learning_rate`."""
    schedule = optax.cosine_decay_schedule(
        settings.learning_rate,
        max(1, settings.num_steps),
        alpha=settings.final_learning_rate / settings.learning_rate,
    )
    return optax.adamw(schedule, b1=0.9, b2=0.999, weight_decay=settings.weight_decay)


def init_state(optimizer: optax.GradientTransformation, images: Array) -> SynthesisState:
    """The state before the first step."""
    return SynthesisState(jnp.zeros((), jnp.int32), images, optimizer.init(images))


def step(
    model: Model,
    optimizer: optax.GradientTransformation,
    spec: SynthesisSpec,
    state: SynthesisState,
    batch: SynthesisBatch,
    key: Array,
    axis_name: str | None = None,
    num_parts: int = 1,
) -> tuple[SynthesisState, losses.Terms]:
    """One optimisation step of a batch of images.

    Args:
      model: Q.
      optimizer: of `create_optimizer`.
      spec: settings and pixels.
      state: of the images, the rows of the device.
      batch: labels, the rows of the device; both models' weights.
      key: of this synthesis; draws are folded with image, and with step where each has its own.
      axis_name: mapped axis of the global batch.
      num_parts: equal parts of the device's images, which the models see one after the other; how
        many changes nothing but the rounding, the time and the memory.

    Returns:
      The new state and the weighted loss terms before it, of the global batch.
    """
    settings, pixels = spec.settings, spec.pixels
    over = GlobalBatch(axis_name, batch.valid)
    smoothness = noise.draw_smoothness(
        key, batch.indices, settings.smoothness, settings.smoothness_spread
    )
    variation_target = synthesis_terms.draw_variation_target(key, batch, state.images, over)
    step_key = jax.random.fold_in(key, state.step)
    view_key, target_key = named_key(step_key, "view"), named_key(key, "targets")
    ratio = regions.mask_ratio(
        state.step, settings.num_steps, settings.initial_ratio, settings.final_ratio
    )

    def model_loss(
        images: Array, indices_and_labels: tuple[Array, Array], over: GlobalBatch
    ) -> tuple[Array, losses.Terms]:
        indices, labels = indices_and_labels
        keys = image_keys(view_key, indices)
        views = synthesis_view(keys, images, state.step, settings.num_steps, settings.view)
        part = dataclasses.replace(batch, indices=indices, labels=labels, valid=over.valid)
        terms = synthesis_terms.model_terms(
            *(model, settings.weights, part, views, ratio, settings.drop_rate, step_key, over),
            progress=state.step / settings.num_steps,
            target_keys=image_keys(target_key, indices),
        )
        return losses.total(terms), terms

    def image_loss(images: Array) -> tuple[Array, losses.Terms]:
        terms = synthesis_terms.image_terms(settings.weights, images, variation_target, over)
        return losses.total(terms), terms

    gradient, terms = microbatches.image_gradient(
        model_loss, state.images, (batch.indices, batch.labels), num_parts=num_parts, over=over
    )
    other_gradient, other_terms = jax.grad(image_loss, has_aux=True)(state.images)
    gradient, terms = gradient + other_gradient, terms | other_terms
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
    images = pixels.clip(optax.apply_updates(state.images, updates))
    images = backgrounds.paint(images, settings.background, key, batch.indices, pixels)
    return SynthesisState(state.step + 1, images, opt_state), terms


def synthesize(
    model: Model,
    optimizer: optax.GradientTransformation,
    spec: SynthesisSpec,
    state: SynthesisState,
    batch: SynthesisBatch,
    key: Array,
    num_steps: Array | int,
    axis_name: str | None = None,
    num_parts: int = 1,
) -> tuple[SynthesisState, losses.Terms]:
    """`num_steps` (at least 1) of `step` in one compiled loop; terms are those of the last step."""

    def take_step(state: SynthesisState) -> tuple[SynthesisState, losses.Terms]:
        return step(model, optimizer, spec, state, batch, key, axis_name, num_parts)

    # Their names are known without tracing a step for them.
    weights = dataclasses.asdict(spec.settings.weights)
    terms = {name: jnp.zeros(()) for name, weight in weights.items() if weight}
    return jax.lax.fori_loop(0, num_steps, lambda _, carry: take_step(carry[0]), (state, terms))
