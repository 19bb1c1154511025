"""Fine-tuning: trains Q on synthetic images to imitate P's outputs and attention.

Source: `docs/method.md` section 3. Functions are written for one device of a mapped axis.
"""

import dataclasses
import math
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from maskaq_jax import augment, averaging, distances, losses, randomness
from maskaq_jax.models import Model, full_precision
from maskaq_jax.pixels import Pixels
from maskaq_jax.quantizers import ActivationQuantizer
from maskaq_jax.ranges import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    ShareBelowOne,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The paper's settings of fine-tuning.

    Attributes:
      epochs: passes over the samples.
      batch_size: global.
      optimizer: 'sgd' (Nesterov momentum 0.9) or 'adam'.
      learning_rate: of the weights, at the start of the cosine.
      quantizer_learning_rate: of zero points, and of step sizes where they have no rate of their
        own.
      step_learning_rate: of step sizes, as a share of their size, with 'adam'; 0 for none. They
        differ by two orders of magnitude, and a rate that suits those of 3 bits is too large for
        those of 8.
      final_learning_rate_ratio: share of the learning rate left at the end.
      averaged_share: share of the steps, at the end, whose weights and quantizers are averaged into
        the final ones; 0 keeps the last.
      output_distance: 'kl' of the class probabilities; 'cosine' or 'mse' of the pooled features,
        for models without a classifier.
      temperature: of 'kl'.
      attention_weight: factor c of the attention distillation; 0 leaves it out.
      attention_distance: 'ssim', 'mse', 'l1' or 'kl'.
      block_weight: factor of the distillation of every block's tokens; 0 leaves it out.
      important_ratio: share of patches that weigh more in both.
      important_weight: how much they weigh; the others weigh 1, so 1 makes it unmasked.
      view: augmentation.
    """

    epochs: NonNegativeInt = 200
    batch_size: PositiveInt = 16
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: PositiveFloat = 1e-3
    quantizer_learning_rate: NonNegativeFloat = 1e-3
    step_learning_rate: ShareBelowOne = 0.0
    final_learning_rate_ratio: Share = 0.01
    averaged_share: Share = 0.0
    output_distance: Literal["kl", "cosine", "mse"] = "kl"
    temperature: PositiveFloat = 5.0
    attention_weight: NonNegativeFloat = 10.0
    attention_distance: distances.Distance = "ssim"
    block_weight: NonNegativeFloat = 0.0
    important_ratio: Share = 0.1
    important_weight: NonNegativeFloat = 2.0
    view: augment.FinetuningView = augment.FinetuningView()


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
      variables: Q's `params` and `quant`.
      opt_state: the optimiser's.
    """

    step: Array
    variables: Any
    opt_state: Any


@flax.struct.dataclass
class Batch:
    """What a step reads.

    Attributes:
      indices: [B] int32 global numbers of the images.
      images: [B, height, width, channels] float32, normalised.
      params: P's weights.
      valid: [B] bool, false where an image is padding; None where none is.
    """

    indices: Array
    images: Array
    params: Any
    valid: Array | None = None


def to_trees(state: State) -> dict[str, Any]:
    """What a checkpoint holds of a state; Q's variables can be restored without the rest."""
    return {
        "variables": state.variables,
        "training": {"step": state.step, "opt_state": state.opt_state},
    }


def from_trees(trees: dict[str, Any]) -> State:
    """The inverse of `to_trees`."""
    return State(variables=trees["variables"], **trees["training"])


def steps_per_epoch(settings: Settings, num_samples: int) -> int:
    """Steps that visit every sample once; the last batch is filled up."""
    return math.ceil(num_samples / settings.batch_size)


def create_optimizer(settings: Settings, num_steps: int) -> optax.GradientTransformation:
    """A cosine over `num_steps` for each group: the weights, step sizes, and zero points.

    The last update lands on the mean of what the last `averaged_share` of the updates led to.
    """

    def on_cosine(learning_rate: float) -> optax.GradientTransformation:
        schedule = optax.cosine_decay_schedule(
            learning_rate, max(1, num_steps), alpha=settings.final_learning_rate_ratio
        )
        if settings.optimizer == "adam":
            return optax.adam(schedule)
        return optax.sgd(schedule, momentum=0.9, nesterov=True)

    groups = {
        "params": on_cosine(settings.learning_rate),
        "quant": on_cosine(settings.quantizer_learning_rate),
    }
    if settings.step_learning_rate:
        # A step size is a block of one parameter, whose root mean square is its size.
        relative = optax.scale_by_param_block_rms(min_scale=0.0)
        groups["steps"] = optax.chain(on_cosine(settings.step_learning_rate), relative)

    def label(path: tuple[Any, ...], _: Array) -> str:
        if path[0].key == "params":
            return "params"
        is_step = path[-1].key == "step"
        return "steps" if is_step and settings.step_learning_rate else "quant"

    optimizer = optax.partition(
        groups, lambda trained: jax.tree_util.tree_map_with_path(label, trained)
    )
    if not settings.averaged_share:
        return optimizer
    num_averaged = max(1, round(settings.averaged_share * num_steps))
    return averaging.average_at_end(optimizer, num_steps, num_averaged)


def init_state(optimizer: optax.GradientTransformation, variables: Any) -> State:
    """The state before the first step."""
    return State(jnp.zeros((), jnp.int32), variables, optimizer.init(trainable(variables)))


def trainable(variables: Any) -> Any:
    """What is trained: all of `params`; step and zero point of every quantizer."""
    quant = jax.tree.map(
        lambda quantizer: {"step": quantizer.step, "zero_point": quantizer.zero_point},
        variables.get("quant", {}),
        is_leaf=_is_quantizer,
    )
    return {"params": variables["params"], "quant": quant}


def with_trainable(variables: Any, trained: Any) -> Any:
    """Puts back what `trainable` took out."""
    quant = jax.tree.map(
        lambda quantizer, leaves: quantizer.replace(**leaves),
        variables.get("quant", {}),
        trained["quant"],
        is_leaf=_is_quantizer,
    )
    return {"params": trained["params"], "quant": quant}


def loss_terms(
    model: Model,
    settings: Settings,
    params: Any,
    variables: Any,
    views: Array,
    axis_name: str | None = None,
    valid: Array | None = None,
) -> losses.Terms:
    """The weighted terms of the loss; it is their sum.

    Args:
      model: Q; P is its full-precision clone.
      settings: temperature and weights.
      params: P's weights.
      variables: Q's variables.
      views: [B, height, width, channels] augmented images.
      axis_name: mapped axis of the global batch.
      valid: [B] bool, false where an image is padding.
    """
    logits_p, out_p = full_precision(model).apply({"params": params}, views)
    logits_q, out_q = model.apply(variables, views)
    if settings.output_distance == "kl":
        distillation = losses.distillation_loss(
            logits_q, logits_p, settings.temperature, axis_name, valid
        )
    else:
        distillation = losses.feature_distillation_loss(
            out_q["features"], out_p["features"], settings.output_distance, axis_name, valid
        )
    terms = {"distillation": distillation}
    if settings.attention_weight:
        attention = losses.masked_attention_distillation_loss(
            out_p["attention_outputs"],
            out_q["attention_outputs"],
            model.num_prefix_tokens,
            ratio=settings.important_ratio,
            high=settings.important_weight,
            distance=settings.attention_distance,
            axis_name=axis_name,
            valid=valid,
        )
        terms["attention"] = settings.attention_weight * attention
    if settings.block_weight:
        blocks = losses.masked_block_distillation_loss(
            out_p["block_outputs"],
            out_q["block_outputs"],
            ratio=settings.important_ratio,
            high=settings.important_weight,
            axis_name=axis_name,
            valid=valid,
        )
        terms["blocks"] = settings.block_weight * blocks
    return terms


def step(
    model: Model,
    optimizer: optax.GradientTransformation,
    spec: Spec,
    state: State,
    batch: Batch,
    key: Array,
    axis_name: str | None = None,
) -> tuple[State, losses.Terms]:
    """One training step of Q.

    Args:
      model: Q.
      optimizer: of `create_optimizer`.
      spec: settings and pixels.
      state: Q's variables, the same on every device.
      batch: the device's share of the images; P's weights.
      key: of fine-tuning; draws are folded with image and step.
      axis_name: mapped axis of the global batch.

    Returns:
      The new state and the weighted loss terms before it, of the global batch.
    """
    settings = spec.settings
    keys = randomness.image_keys(randomness.named_key(key, "view"), batch.indices, state.step)
    views = augment.finetuning_view(keys, batch.images, spec.pixels, settings.view)

    def loss(trained: Any) -> tuple[Array, losses.Terms]:
        variables = with_trainable(state.variables, trained)
        terms = loss_terms(model, settings, batch.params, variables, views, axis_name, batch.valid)
        return losses.total(terms), terms

    trained = trainable(state.variables)
    gradient, terms = jax.grad(loss, has_aux=True)(trained)
    if axis_name is not None:
        gradient = jax.lax.pmean(gradient, axis_name)
    updates, opt_state = optimizer.update(gradient, state.opt_state, trained)
    variables = with_trainable(state.variables, optax.apply_updates(trained, updates))
    return State(state.step + 1, variables, opt_state), terms


def _is_quantizer(node: Any) -> bool:
    return isinstance(node, ActivationQuantizer)
