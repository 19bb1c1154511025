"""Counts what a model gets right over a dataset, and where two models agree."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from maskaq_jax.models import Model, full_precision


def count_correct(
    model: Model,
    variables: Any,
    images: Array,
    labels: Array,
    valid: Array,
    axis_name: str | None = None,
) -> tuple[Array, Array]:
    """Top-1 hits of a padded batch.

    Args:
      model: P or Q.
      variables: its variables.
      images: [B, height, width, channels] float32, normalised.
      labels: [B] int.
      valid: [B] bool, false where an example is padding.
      axis_name: mapped axis of the global batch.

    Returns:
      [] int32 correct and [] int32 total, over the valid examples of the global batch.
    """
    logits, _ = model.apply(variables, images)
    correct = jnp.sum((logits.argmax(axis=-1) == labels) & valid)
    counts = correct, jnp.sum(valid)
    return counts if axis_name is None else jax.lax.psum(counts, axis_name)


def count_agreement(
    model: Model,
    params: Any,
    variables: Any,
    images: Array,
    valid: Array,
    axis_name: str | None = None,
) -> tuple[Array, Array, Array]:
    """How P and Q agree on a padded batch.

    Args:
      model: Q; P is its full-precision clone.
      params: P's weights.
      variables: Q's variables.
      images: [B, height, width, channels] float32, normalised.
      valid: [B] bool, false where an example is padding.
      axis_name: mapped axis of the global batch.

    Returns:
      [] int32 images of the same top-1 class, [] float32 sum of the cosines of the pooled features,
      [] int32 images; over the valid examples of the global batch.
    """
    logits_p, out_p = full_precision(model).apply({"params": params}, images)
    logits_q, out_q = model.apply(variables, images)
    same = (logits_p.argmax(axis=-1) == logits_q.argmax(axis=-1)) & valid
    cosines = optax.losses.cosine_similarity(out_q["features"], out_p["features"], epsilon=1e-6)
    counts = jnp.sum(same), jnp.sum(cosines * valid), jnp.sum(valid)
    return counts if axis_name is None else jax.lax.psum(counts, axis_name)
