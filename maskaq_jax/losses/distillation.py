"""The losses of fine-tuning: how far Q is from P. Source: `docs/method.md` section 3."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import regions
from maskaq_jax.devices import arrays
from maskaq_jax.devices.global_batch import LOCAL, GlobalBatch, safe_sqrt
from maskaq_jax.losses import _distances, _reductions

FeatureDistance = Literal["cosine", "mse"]

# Share of the batch's mean variance below which an image's own says nothing.
_LEAST_VARIANCE_SHARE = 0.01


def distillation_loss(
    student_logits: Array,
    teacher_logits: Array,
    temperature: float,
    *,
    over: GlobalBatch = LOCAL,
) -> Array:
    """`T^2 KL(softmax(teacher / T) || softmax(student / T))`, mean over images.

        >>> student, teacher = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]])
        >>> print(f"{distillation_loss(student, teacher, temperature=1.0):.4f}")
        0.1109

    Args:
      student_logits: [B, classes] of Q.
      teacher_logits: [B, classes] of P; no gradient flows to them.
      temperature: T.
      over: the global batch.

    Raises:
      ValueError: logits of other axes, or of different shapes.
    """
    arrays.check_axes("student_logits", student_logits, "batch classes", "floating")
    arrays.check_same_shape(student_logits=student_logits, teacher_logits=teacher_logits)
    divergence = _distances.class_divergence(student_logits, teacher_logits, temperature)
    return temperature**2 * over.mean(divergence)


def feature_distillation_loss(
    student: Array,
    teacher: Array,
    distance: FeatureDistance = "cosine",
    *,
    over: GlobalBatch = LOCAL,
) -> Array:
    """Distance of Q's pooled features from P's, for models without a classifier.

        >>> print(feature_distillation_loss(jnp.array([[0.0, 2.0]]), jnp.array([[1.0, 0.0]])))
        1.0

    Args:
      student: [B, C] of Q.
      teacher: [B, C] of P; no gradient flows to them.
      distance: 'cosine', `1 - cos`, mean over images; or 'mse', mean over images and channels.
      over: the global batch.

    Raises:
      ValueError: features of other axes, or of different shapes; unknown distance.
    """
    arrays.check_axes("student", student, "batch channels", "floating")
    arrays.check_same_shape(student=student, teacher=teacher)
    known = get_args(FeatureDistance)
    if distance not in known:
        raise ValueError(f"distance must be {' or '.join(known)}, got {distance!r}")
    student = student.astype(jnp.float32)
    teacher = jax.lax.stop_gradient(teacher).astype(jnp.float32)
    if distance == "mse":
        return over.mean(jnp.square(student - teacher))
    norms = safe_sqrt(jnp.sum(jnp.square(student), axis=-1)) * jnp.linalg.norm(teacher, axis=-1)
    return over.mean(1 - jnp.sum(student * teacher, axis=-1) / (norms + 1e-6))


def masked_attention_distillation_loss(
    outputs_p: regions.Layers,
    outputs_q: regions.Layers,
    patches: regions.PatchTokens | int = 1,
    ratio: float = 0.1,
    high: float = 2.0,
    low: float = 1.0,
    distance: _distances.Distance = "ssim",
    *,
    over: GlobalBatch = LOCAL,
) -> Array:
    """Aligns Q's attention outputs with P's, the patches important to P weighing more.

    The top `max(1, round(ratio n))` patches by mean |O_P| weigh `high`, the others `low`. 'ssim' is
    `1 - (2 cov_w(p, q) + C2) / (var_w(p) + var_w(q) + C2 + 1e-6)` with moments over the patches,
    weighted by w, mean over images, heads and channels.

        >>> layer = jax.random.normal(jax.random.key(0), (1, 2, 5, 8))
        >>> print(f"{masked_attention_distillation_loss([layer], [-layer]):.3f}")
        1.997

    Args:
      outputs_p: O of P's layers, [B, H, N, d] each; no gradient flows to them.
      outputs_q: O of Q's layers.
      patches: which tokens are patches; a number is of tokens before them.
      ratio: share of important patches.
      high: their weight.
      low: the others' weight.
      distance: 'ssim', or 'mse', 'l1' or 'kl'.
      over: the global batch.

    Raises:
      ValueError: outputs of another shape, or P's and Q's of different ones; unknown distance.
    """
    arrays.check_layers(regions.OUTPUTS, outputs_p=outputs_p, outputs_q=outputs_q)
    if distance not in _distances.DISTANCES:
        raise ValueError(
            f"distance must be one of {', '.join(_distances.DISTANCES)}, got {distance!r}"
        )
    tokens = regions.patch_tokens(patches)

    def layer_loss(layer_p: Array, layer_q: Array) -> Array:
        target = tokens.outputs(jax.lax.stop_gradient(layer_p)).astype(jnp.float32)
        output = tokens.outputs(layer_q).astype(jnp.float32)
        importance = jnp.abs(target).mean(axis=(1, 3))
        weight = _weights_of_top(importance, ratio, high, low)[:, None, :, None]

        def expectation(x: Array) -> Array:
            return jnp.sum(weight * x, axis=2, keepdims=True)

        return over.mean(_distances.DISTANCES[distance](target, output, expectation))

    return _reductions.mean_over_layers(layer_loss, outputs_p, outputs_q)


def masked_block_distillation_loss(
    blocks_p: regions.Layers,
    blocks_q: regions.Layers,
    ratio: float = 0.1,
    high: float = 2.0,
    low: float = 1.0,
    *,
    over: GlobalBatch = LOCAL,
) -> Array:
    """Aligns the tokens of Q's blocks with those of P's, the tokens that stand out weighing more.

    For each block and image `sum_n w_n mean_c (p - q)^2 / (max(v, m / 100) + 1e-6)`, where v is the
    variance of P's tokens and m its mean over the batch. The top `max(1, round(ratio n))` tokens by
    mean distance from the image's mean token weigh `high`, the others `low`.

        >>> layer = jax.random.normal(jax.random.key(0), (1, 5, 16))
        >>> print(f"{masked_block_distillation_loss([layer], [layer + 1.0]):.3f}")
        1.399

    Args:
      blocks_p: tokens after P's blocks, [B, N, C] each; no gradient flows to them.
      blocks_q: those of Q's.
      ratio: share of important tokens.
      high: their weight.
      low: the others' weight.
      over: the global batch.

    Raises:
      ValueError: tokens of other axes, or P's and Q's of different shapes.
    """
    arrays.check_layers("batch tokens channels", blocks_p=blocks_p, blocks_q=blocks_q)

    def layer_loss(layer_p: Array, layer_q: Array) -> Array:
        target = jax.lax.stop_gradient(layer_p).astype(jnp.float32)
        spread = target - target.mean(axis=1, keepdims=True)
        importance = jnp.abs(spread).mean(axis=-1)
        weight = _weights_of_top(importance, ratio, high, low)[:, :, None]
        error = weight * jnp.square(target - layer_q.astype(jnp.float32))
        variance = jnp.square(spread).mean(axis=(1, 2))
        # P's tokens of a blank image are all alike: without a bound its relative error would be
        # thousands, and its gradient all that the optimiser sees.
        least = _LEAST_VARIANCE_SHARE * over.mean(variance)
        relative_error = error.sum(axis=1).mean(axis=-1) / (jnp.maximum(variance, least) + 1e-6)
        return over.mean(relative_error)

    return _reductions.mean_over_layers(layer_loss, blocks_p, blocks_q)


def _weights_of_top(importance: Array, ratio: float, high: float, low: float) -> Array:
    """[B, n] -> [B, n]: `high` for the top `max(1, round(ratio n))`, else `low`; sum 1."""
    count = max(1, round(ratio * importance.shape[-1]))
    rows = jnp.arange(importance.shape[0])[:, None]
    _, top = jax.lax.top_k(importance, count)
    weight = jnp.full_like(importance, low).at[rows, top].set(high)
    # The authors add 1e-6 before normalising: weights of 0 are allowed.
    weight = weight + 1e-6
    return weight / weight.sum(axis=-1, keepdims=True)
