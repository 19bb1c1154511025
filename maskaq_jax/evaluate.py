"""Counts what a model gets right over a dataset."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.models import Model


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
