"""The losses of fine-tuning: how far Q is from P. Source: `docs/method.md` section 3."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import attention, distances, reductions

FeatureDistance = Literal["cosine", "mse"]

# Share of the batch's mean variance below which an image's own says nothing.
_LEAST_VARIANCE_SHARE = 0.01


def distillation_loss(
    student_logits: Array,
    teacher_logits: Array,
    temperature: float,
    axis_name: str | None = None,
    valid: Array | None = None,
) -> Array:
    """`T^2 KL(softmax(teacher / T) || softmax(student / T))`, mean over images.

    Args:
      student_logits: [B, classes] of Q.
      teacher_logits: [B, classes] of P; no gradient flows to them.
      temperature: T.
      axis_name: mapped axis of the global batch.
      valid: images that count.
    """
    student = jax.nn.log_softmax(student_logits.astype(jnp.float32) / temperature)
    teacher = jax.nn.log_softmax(
        jax.lax.stop_gradient(teacher_logits).astype(jnp.float32) / temperature
    )
    divergence = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
    return temperature**2 * reductions.mean(divergence, axis_name, valid)


def feature_distillation_loss(
    student: Array,
    teacher: Array,
    distance: FeatureDistance = "cosine",
    axis_name: str | None = None,
    valid: Array | None = None,
) -> Array:
    """Distance of Q's pooled features from P's, for models without a classifier.

    Args:
      student: [B, C] of Q.
      teacher: [B, C] of P; no gradient flows to them.
      distance: 'cosine', `1 - cos`, mean over images; or 'mse', mean over images and channels.
      axis_name: mapped axis of the global batch.
      valid: images that count.

    Raises:
      ValueError: unknown distance.
    """
    known = get_args(FeatureDistance)
    if distance not in known:
        raise ValueError(f"distance must be {' or '.join(known)}, got {distance!r}")
    student = student.astype(jnp.float32)
    teacher = jax.lax.stop_gradient(teacher).astype(jnp.float32)
    if distance == "mse":
        return reductions.mean(jnp.square(student - teacher), axis_name, valid)
    norms = reductions.safe_sqrt(jnp.sum(jnp.square(student), axis=-1)) * jnp.linalg.norm(
        teacher, axis=-1
    )
    return reductions.mean(
        1 - jnp.sum(student * teacher, axis=-1) / (norms + 1e-6), axis_name, valid
    )


def masked_attention_distillation_loss(
    outputs_p: attention.Layers,
    outputs_q: attention.Layers,
    num_prefix_tokens: int = 1,
    ratio: float = 0.1,
    high: float = 2.0,
    low: float = 1.0,
    distance: distances.Distance = "ssim",
    axis_name: str | None = None,
    valid: Array | None = None,
) -> Array:
    """Aligns Q's attention outputs with P's, the patches important to P weighing more.

    The top `max(1, round(ratio n))` patches by mean |O_P| weigh `high`, the others `low`. 'ssim' is
    `1 - (2 cov_w(p, q) + C2) / (var_w(p) + var_w(q) + C2 + 1e-6)` with moments over the patches,
    weighted by w, mean over images, heads and channels.

    Args:
      outputs_p: O of P's layers, [B, H, N, d] each; no gradient flows to them.
      outputs_q: O of Q's layers.
      num_prefix_tokens: leading tokens left out.
      ratio: share of important patches.
      high: their weight.
      low: the others' weight.
      distance: 'ssim', or 'mse', 'l1' or 'kl'.
      axis_name: mapped axis of the global batch.
      valid: images that count.

    Raises:
      ValueError: unknown distance.
    """
    if distance not in distances.DISTANCES:
        raise ValueError(
            f"distance must be one of {', '.join(distances.DISTANCES)}, got {distance!r}"
        )

    def layer_loss(layer_p: Array, layer_q: Array) -> Array:
        target = jax.lax.stop_gradient(layer_p)[:, :, num_prefix_tokens:].astype(jnp.float32)
        output = layer_q[:, :, num_prefix_tokens:].astype(jnp.float32)
        importance = jnp.abs(target).mean(axis=(1, 3))
        weight = _weights_of_top(importance, ratio, high, low)[:, None, :, None]

        def expectation(x: Array) -> Array:
            return jnp.sum(weight * x, axis=2, keepdims=True)

        return reductions.mean(
            distances.DISTANCES[distance](target, output, expectation), axis_name, valid
        )

    return reductions.mean_over_layers(layer_loss, outputs_p, outputs_q)


def masked_block_distillation_loss(
    blocks_p: attention.Layers,
    blocks_q: attention.Layers,
    ratio: float = 0.1,
    high: float = 2.0,
    low: float = 1.0,
    axis_name: str | None = None,
    valid: Array | None = None,
) -> Array:
    """Aligns the tokens of Q's blocks with those of P's, the tokens that stand out weighing more.

    For each block and image `sum_n w_n mean_c (p - q)^2 / (max(v, m / 100) + 1e-6)`, where v is the
    variance of P's tokens and m its mean over the batch. The top `max(1, round(ratio n))` tokens by
    mean distance from the image's mean token weigh `high`, the others `low`.

    Args:
      blocks_p: tokens after P's blocks, [B, N, C] each; no gradient flows to them.
      blocks_q: those of Q's.
      ratio: share of important tokens.
      high: their weight.
      low: the others' weight.
      axis_name: mapped axis of the global batch.
      valid: images that count.
    """

    def layer_loss(layer_p: Array, layer_q: Array) -> Array:
        target = jax.lax.stop_gradient(layer_p).astype(jnp.float32)
        spread = target - target.mean(axis=1, keepdims=True)
        importance = jnp.abs(spread).mean(axis=-1)
        weight = _weights_of_top(importance, ratio, high, low)[:, :, None]
        error = weight * jnp.square(target - layer_q.astype(jnp.float32))
        variance = jnp.square(spread).mean(axis=(1, 2))
        # P's tokens of a blank image are all alike: without a bound its relative error would be
        # thousands, and its gradient all that the optimiser sees.
        least = _LEAST_VARIANCE_SHARE * reductions.mean(variance, axis_name, valid)
        relative_error = error.sum(axis=1).mean(axis=-1) / (jnp.maximum(variance, least) + 1e-6)
        return reductions.mean(relative_error, axis_name, valid)

    return reductions.mean_over_layers(layer_loss, blocks_p, blocks_q)


def _weights_of_top(importance: Array, ratio: float, high: float, low: float) -> Array:
    """[B, n] -> [B, n]: `high` for the top `max(1, round(ratio n))`, else `low`; sum 1."""
    count = max(1, round(ratio * importance.shape[-1]))
    rows = jnp.arange(importance.shape[0])[:, None]
    _, top = jax.lax.top_k(importance, count)
    weight = jnp.full_like(importance, low).at[rows, top].set(high)
    # The authors add 1e-6 before normalising: weights of 0 are allowed.
    weight = weight + 1e-6
    return weight / weight.sum(axis=-1, keepdims=True)
