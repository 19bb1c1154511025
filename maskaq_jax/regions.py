"""Informative regions: the patches of a synthetic image that P attends to most.

Source: `docs/method.md` section 2, "informative regions".
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from maskaq_jax import attention


def mask_ratio(step: ArrayLike, num_steps: int, initial: float = 0.5, final: float = 0.1) -> Array:
    """Share of patches kept at a step: linear from `initial` to `final`, never below `final`.

    Args:
      step: [] step number t in `[0, num_steps)`.
      num_steps: T.
      initial: ratio at t = 0.
      final: ratio at t = T.

    Returns:
      [] float32.
    """
    progress = jnp.asarray(step, jnp.float32) / num_steps
    return jnp.maximum(initial * (1 - progress) + final * progress, final)


def informative_regions(
    logits: Array | Sequence[Array], ratio: ArrayLike, num_prefix_tokens: int = 1
) -> Array:
    """Marks the top `max(1, int(n ratio))` of n patches by their score, mean over heads and layers.

    Args:
      logits: [L, B, H, N, N], or a sequence of [B, H, N, N], P's attention logits.
      ratio: [] share of patches to keep.
      num_prefix_tokens: tokens before the patches; 0 for a model without a class token.

    Returns:
      [B, n] float32 of 0 and 1, without gradient.
    """
    layers = [attention.patch_scores(layer, num_prefix_tokens) for layer in logits]
    scores = jax.lax.stop_gradient(jnp.stack(layers).mean(axis=0))
    return _top_share(scores, ratio)


def window_regions(logits: Sequence[Array], ratio: ArrayLike, num_images: int) -> tuple[Array, ...]:
    """Informative regions of a model with windows and without a class token, for each layer.

    The windows of an image are gathered, so that the top ratio is of the image's tokens. Layers of
    other resolutions have other tokens, hence masks of their own (`docs/method.md` section 5).

    Args:
      logits: of [images * windows, H, N, N], an image's windows in a row; P's attention logits.
      ratio: [] share of tokens to keep.
      num_images: B.

    Returns:
      [B, windows * N] float32 of 0 and 1 for each layer, without gradient.
    """

    def layer_regions(layer: Array) -> Array:
        scores = attention.patch_scores(layer, 0).reshape(num_images, -1)
        return _top_share(jax.lax.stop_gradient(scores), ratio)

    return tuple(map(layer_regions, logits))


def drop_regions(key: Array, mask: Array, rate: float = 0.3) -> Array:
    """Drops a share of the kept patches at random: of k, `max(1, round((1 - rate) k))` stay.

    Args:
      key: PRNG key.
      mask: [..., n] of 0 and 1.
      rate: share to drop, in [0, 1].

    Returns:
      [..., n] float32 of 0 and 1, at most `mask`.
    """
    kept = mask.sum(axis=-1, keepdims=True)
    # In Python's precision: in float32 0.7 of 45 is 31.5, and is rounded up.
    counts = [max(1, round((1 - rate) * count)) for count in range(mask.shape[-1] + 1)]
    stay = jnp.minimum(kept, jnp.asarray(counts, jnp.float32)[kept.astype(jnp.int32)])
    draw = jnp.where(mask > 0, jax.random.uniform(key, mask.shape), -1.0)
    return _top(draw, stay)


def coupled_regions(
    logits: Sequence[Array],
    ratio: ArrayLike,
    drop_rate: float,
    keys: Array,
    num_prefix_tokens: int = 1,
) -> list[Array]:
    """The regions a step couples P and Q on: the informative ones, some dropped at random.

    A class token scores the patches for all layers at once; without one, layers have regions of
    their own. In an image, layers with equally many tokens draw alike.

    Args:
      logits: of each layer, as `informative_regions` or, without prefix tokens, `window_regions`
        takes them.
      ratio: [] share of patches in the informative regions.
      drop_rate: share of those to drop; 0 keeps all.
      keys: [B] PRNG keys, one for each image.
      num_prefix_tokens: tokens before the patches; 0 for a model with windows.

    Returns:
      [B, n] float32 of 0 and 1 for each layer, without gradient; as many ones for every image.
    """

    def drop(mask: Array) -> Array:
        if not drop_rate:
            return mask
        return jax.vmap(drop_regions, (0, 0, None))(keys, mask, drop_rate)

    if num_prefix_tokens:
        mask = drop(informative_regions(logits, ratio, num_prefix_tokens))
        return [mask] * len(logits)
    return [drop(mask) for mask in window_regions(logits, ratio, len(keys))]


def _top_share(scores: Array, ratio: ArrayLike) -> Array:
    num_patches = scores.shape[-1]
    if isinstance(ratio, float):  # in its own precision: in float32 0.7 of 90 is 63, not 62
        return _top(scores, max(1, math.floor(ratio * num_patches)))
    return _top(scores, jnp.maximum(1, jnp.floor(jnp.asarray(ratio) * num_patches)))


def _top(scores: Array, count: ArrayLike) -> Array:
    """1.0 for the `count` largest of the last axis; equal scores in order of position."""
    rank = jnp.argsort(jnp.argsort(-scores, axis=-1, stable=True), axis=-1)
    return (rank < count).astype(jnp.float32)
