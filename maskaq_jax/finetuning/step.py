"""Fine-tuning: trains Q on synthetic images to imitate P's outputs and attention.

Source: `docs/method.md` section 3. Functions are written for one device of a mapped axis.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from maskaq_jax import losses, schema
from maskaq_jax.devices.global_batch import LOCAL, GlobalBatch
from maskaq_jax.devices.keys import image_keys, named_key
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.images.views import FinetuningView, finetuning_view
from maskaq_jax.models import Model, full_precision
from maskaq_jax.quantizers import ActivationQuantizer, WeightQuantizer
from maskaq_jax.schema import (
    Fraction,
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

# Attributes of quantizers that are trained; factors of inputs are not.
_TRAINED = ("step", "zero_point")


@dataclasses.dataclass(frozen=True)
class FinetuningSettings:
    """The paper's settings of fine-tuning.

    Attributes:
      epochs: passes over the samples.
      batch_size: global.
      optimizer: 'sgd' (Nesterov momentum 0.9) or 'adam'.
      learning_rate: of the weights, at the start of the cosine.
      relative_learning_rate: the same as a share of each tensor's root mean square, with 'adam'; 0
        for `learning_rate`. What suits one model suits others so, whatever their weights' size.
      quantizer_learning_rate: of zero points, and of step sizes where they have no rate of their
        own.
      step_learning_rate: of step sizes, as a share of their size, with 'adam'; 0 for none. They
        differ by two orders of magnitude, and a rate that suits those of 3 bits is too large for
        those of 8.
      final_learning_rate_ratio: share of the learning rate left at the end.
      averaged_share: share of the steps, at the end, whose weights and quantizers are averaged into
        the final ones; 0 keeps the last.
      output_distance: 'kl' of the class probabilities; 'cosine' or 'mse' of the pooled features,
        for models without a classifier. Detectors, segmenters and models of maps have a distance of
        their own (`losses/outputs.py`).
      temperature: of 'kl'.
      attention_weight: factor c of the attention distillation; 0 leaves it out.
      attention_distance: 'ssim', 'mse', 'l1' or 'kl'.
      block_weight: factor of the distillation of every block's tokens, and of maps; 0 leaves it
        out.
      important_ratio: share of patches that weigh more in both.
      important_weight: how much they weigh; the others weigh 1, so 1 makes it unmasked.
      view: augmentation.
    """

    epochs: NonNegativeInt = 200
    batch_size: PositiveInt = 16
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: PositiveFloat = 1e-3
    relative_learning_rate: FractionBelowOne = schema.added(0.0)
    quantizer_learning_rate: NonNegativeFloat = 1e-3
    step_learning_rate: FractionBelowOne = 0.0
    final_learning_rate_ratio: Fraction = 0.01
    averaged_share: Fraction = 0.0
    output_distance: Literal["kl", "cosine", "mse"] = "kl"
    temperature: PositiveFloat = 5.0
    attention_weight: NonNegativeFloat = 10.0
    attention_distance: losses.Distance = "ssim"
    block_weight: NonNegativeFloat = 0.0
    important_ratio: Fraction = 0.1
    important_weight: NonNegativeFloat = 2.0
    view: FinetuningView = FinetuningView()


@dataclasses.dataclass(frozen=True)
class FinetuningSpec:
    """All that is static in a step: the settings and what pixels are."""

    settings: FinetuningSettings
    pixels: Pixels


@flax.struct.dataclass
class FinetuningState:
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
class FinetuningBatch:
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


def to_trees(state: FinetuningState) -> dict[str, Any]:
    """What a checkpoint holds of a state; Q's variables can be restored without the rest."""
    return {
        "variables": state.variables,
        "training": {"step": state.step, "opt_state": state.opt_state},
    }


def from_trees(trees: dict[str, Any]) -> FinetuningState:
    """The inverse of `to_trees`."""
    return FinetuningState(variables=trees["variables"], **trees["training"])


def steps_per_epoch(settings: FinetuningSettings, num_samples: int) -> int:
    """Steps that visit every sample once; the last batch is filled up."""
    return math.ceil(num_samples / settings.batch_size)


def init_state(optimizer: optax.GradientTransformation, variables: Any) -> FinetuningState:
    """The state before the first step."""
    return FinetuningState(
        jnp.zeros((), jnp.int32), variables, optimizer.init(trainable(variables))
    )


def trainable(variables: Any) -> Any:
    """What is trained: all of `params`; step and zero point of every quantizer."""

    def leaves(quantizer: Any) -> dict[str, Any]:
        names = [name for name in _TRAINED if hasattr(quantizer, name)]
        return {name: getattr(quantizer, name) for name in names}

    quant = jax.tree.map(leaves, variables.get("quant", {}), is_leaf=_is_quantizer)
    return {"params": variables["params"], "quant": quant}


def with_trainable(variables: Any, trained: Any) -> Any:
    """Puts back what `trainable` took out."""
    quant = jax.tree.map(
        lambda quantizer, leaves: quantizer.replace(**leaves) if leaves else quantizer,
        variables.get("quant", {}),
        trained["quant"],
        is_leaf=_is_quantizer,
    )
    return {"params": trained["params"], "quant": quant}


def loss_terms(
    model: Model,
    settings: FinetuningSettings,
    params: Any,
    variables: Any,
    views: Array,
    over: GlobalBatch = LOCAL,
) -> losses.Terms:
    """The weighted terms of the loss; it is their sum.

    Args:
      model: Q; P is its full-precision clone.
      settings: temperature and weights.
      params: P's weights.
      variables: Q's variables.
      views: [B, height, width, channels] augmented images.
      over: the global batch.

    Returns:
      Term name -> [] float32, weight applied.
    """
    outputs_p, out_p = full_precision(model).apply({"params": params}, views)
    outputs_q, out_q = model.apply(variables, views)
    temperature = settings.temperature
    if model.task == "detection":
        distillation = losses.detection_distillation_loss(
            outputs_q, outputs_p, temperature, over=over
        )
    elif model.task == "segmentation":
        distillation = losses.segmentation_distillation_loss(
            outputs_q, outputs_p, temperature, over=over
        )
    elif model.task == "features":
        distillation = losses.map_distillation_loss(outputs_q, outputs_p, over=over)
    elif settings.output_distance == "kl":
        distillation = losses.distillation_loss(outputs_q, outputs_p, temperature, over=over)
    else:
        distillation = losses.feature_distillation_loss(
            out_q["features"], out_p["features"], settings.output_distance, over=over
        )
    terms = {"distillation": distillation}
    if settings.attention_weight:
        attention = losses.masked_attention_distillation_loss(
            out_p["attention_outputs"],
            out_q["attention_outputs"],
            model.patches,
            ratio=settings.important_ratio,
            high=settings.important_weight,
            distance=settings.attention_distance,
            over=over,
        )
        terms["attention"] = settings.attention_weight * attention
    if settings.block_weight:
        blocks = losses.masked_block_distillation_loss(
            _blocks_and_maps(out_p),
            _blocks_and_maps(out_q),
            ratio=settings.important_ratio,
            high=settings.important_weight,
            over=over,
        )
        terms["blocks"] = settings.block_weight * blocks
    return terms


def step(
    model: Model,
    optimizer: optax.GradientTransformation,
    spec: FinetuningSpec,
    state: FinetuningState,
    batch: FinetuningBatch,
    key: Array,
    axis_name: str | None = None,
) -> tuple[FinetuningState, losses.Terms]:
    """One training step of Q.

    Args:
      model: Q.
      optimizer: of `create_optimizer`.
      spec: settings and pixels.
      state: Q's variables, the same on every device.
      batch: images, the rows of the device; P's weights.
      key: of fine-tuning; draws are folded with image and step.
      axis_name: mapped axis of the global batch.

    Returns:
      The new state and the weighted loss terms before it, of the global batch.
    """
    settings, over = spec.settings, GlobalBatch(axis_name, batch.valid)
    keys = image_keys(named_key(key, "view"), batch.indices, state.step)
    views = finetuning_view(keys, batch.images, spec.pixels, settings.view)

    def loss(trained: Any) -> tuple[Array, losses.Terms]:
        variables = with_trainable(state.variables, trained)
        terms = loss_terms(model, settings, batch.params, variables, views, over)
        return losses.total(terms), terms

    trained = trainable(state.variables)
    gradient, terms = jax.grad(loss, has_aux=True)(trained)
    gradient = over.mean_over_devices(gradient)
    updates, opt_state = optimizer.update(gradient, state.opt_state, trained)
    variables = with_trainable(state.variables, optax.apply_updates(trained, updates))
    return FinetuningState(state.step + 1, variables, opt_state), terms


def _blocks_and_maps(out: Mapping[str, Any]) -> tuple[Array, ...]:
    """[B, N, C] each: tokens behind the blocks, and the maps that models of several tasks have."""
    maps = (*out.get("feature_maps", ()), *out.get("pyramid_maps", ()))
    return (*out["block_outputs"], *(x.reshape(len(x), -1, x.shape[-1]) for x in maps))


def _is_quantizer(node: Any) -> bool:
    return isinstance(node, ActivationQuantizer | WeightQuantizer)
