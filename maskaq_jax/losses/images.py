"""The losses of synthesis: what makes an image one that P and Q can be aligned on.

Source: `docs/method.md` section 2.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import attention, distances, head_moments, reductions


def class_loss(
    logits: Array, labels: Array, axis_name: str | None = None, valid: Array | None = None
) -> Array:
    """Cross entropy of P's logits with the labels the images are made for.

    Args:
      logits: [B, classes].
      labels: [B] int.
      axis_name: mapped axis of the global batch.
      valid: images that count.
    """
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    picked = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)
    return -reductions.mean(picked, axis_name, valid)


def inter_head_similarity_loss(
    logits: attention.Layers,
    num_prefix_tokens: int = 1,
    axis_name: str | None = None,
    valid: Array | None = None,
) -> Array:
    """Pulls the heads' attention patterns together (MimiQ): mean of `1 - SSIM^2`.

    Each query row is min-max normalised; SSIM compares two heads' rows over the keys, for every
    query and every pair of heads, a head with itself included:
    `(2 m_h m_g + C1) / (m_h^2 + m_g^2 + C1) (2 cov_hg + C2) / (v_h + v_g + C2)`.

    Args:
      logits: A of each layer, [B, H, N, N] before softmax.
      num_prefix_tokens: leading tokens left out.
      axis_name: mapped axis of the global batch.
      valid: images that count.
    """

    def layer_loss(layer: Array) -> Array:
        rows = attention.patch_logits(layer, num_prefix_tokens).astype(jnp.float32)
        mean, covariance = head_moments.normalised_moments(rows)
        variance = jnp.diagonal(covariance, axis1=1, axis2=2).swapaxes(1, 2)
        mean_h, mean_g = mean[:, :, None], mean[:, None]
        variance_h, variance_g = variance[:, :, None], variance[:, None]
        luminance = (2 * mean_h * mean_g + distances.SSIM_C1) / (
            mean_h**2 + mean_g**2 + distances.SSIM_C1
        )
        structure = (2 * covariance + distances.SSIM_C2) / (
            variance_h + variance_g + distances.SSIM_C2
        )
        return reductions.mean(1 - jnp.square(luminance * structure), axis_name, valid)

    return reductions.mean_over_layers(layer_loss, logits)


def patch_similarity_entropy_loss(
    logits: attention.Layers,
    num_prefix_tokens: int = 1,
    key: Array | None = None,
    max_patches: int = 64,
    axis_name: str | None = None,
    valid: Array | None = None,
) -> Array:
    """Decouples foreground from background: minus the entropy of the patches' similarities.

    `h = 0.5 (log(2 pi e) + log(var(S) + 1e-8))`, with S the cosine similarities of all pairs of
    head-averaged attention rows.

    Args:
      logits: A of each layer, [B, H, N, N] before softmax.
      num_prefix_tokens: leading tokens left out.
      key: draws the rows where there are more than `max_patches`; the same ones for all images.
      max_patches: rows compared at most.
      axis_name: mapped axis of the global batch.
      valid: images that count.

    Raises:
      ValueError: rows must be drawn and there is no key.
    """
    sizes = [layer.shape[-1] - num_prefix_tokens for layer in logits]
    draws = {
        size: _draw_rows(key, len(sizes), size, max_patches)
        for size in set(sizes)
        if size > max_patches
    }

    def layer_loss(layer: Array, drawn: Array | None) -> Array:
        rows = attention.patch_logits(layer, num_prefix_tokens).astype(jnp.float32).mean(axis=1)
        if drawn is not None:
            rows = rows[:, drawn]
        norm = reductions.safe_sqrt(jnp.sum(jnp.square(rows), axis=-1, keepdims=True))
        rows = rows / (norm + 1e-6)
        similarity = jnp.einsum("bik,bjk->bij", rows, rows)
        variance = similarity.var(axis=(1, 2))
        entropy = 0.5 * (math.log(2 * math.pi * math.e) + jnp.log(variance + 1e-8))
        return -reductions.mean(entropy, axis_name, valid)

    drawn = [draws[size][layer] if size in draws else None for layer, size in enumerate(sizes)]
    return reductions.mean_over_layers(layer_loss, logits, drawn)


def patch_similarity_density_loss(
    outputs: attention.Layers,
    num_prefix_tokens: int = 1,
    bandwidth: float = 0.01,
    num_points: int = 10,
    axis_name: str | None = None,
    valid: Array | None = None,
) -> Array:
    """PSAQ-ViT's way to decouple: minus the entropy of a kernel density of patch similarities.

    `h = - integral of f log f`, by the trapezoid rule, with f a Gaussian kernel density of the
    cosine similarities of all pairs of head-averaged attention outputs (Li et al. 2022). As its
    authors do, the sum over layers, where all other losses are means. Points lie evenly between an
    image's smallest and largest similarity; the authors take those of the batch, which would make
    an image depend on the others.

    Args:
      outputs: O of each layer, [B, H, N, d].
      num_prefix_tokens: leading tokens left out.
      bandwidth: the kernel's standard deviation.
      num_points: points the density is evaluated at.
      axis_name: mapped axis of the global batch.
      valid: images that count.
    """

    def layer_loss(layer: Array) -> Array:
        rows = layer[:, :, num_prefix_tokens:].astype(jnp.float32).mean(axis=1)
        norm = reductions.safe_sqrt(jnp.sum(jnp.square(rows), axis=-1, keepdims=True))
        rows = rows / (norm + 1e-6)
        similarity = jnp.einsum("bid,bjd->bij", rows, rows).reshape(len(rows), 1, -1)
        low, high = jax.lax.stop_gradient((similarity.min(axis=-1), similarity.max(axis=-1)))
        points = low + (high - low) * jnp.linspace(0, 1, num_points)[None]
        kernel = jnp.exp(-jnp.square((points[..., None] - similarity) / bandwidth) / 2)
        density = kernel.mean(axis=-1) / (bandwidth * math.sqrt(2 * math.pi))
        # The authors' small number, within the density.
        density = density + 1e-4
        entropy = -jnp.trapezoid(density * jnp.log(density), points, axis=-1)
        return -reductions.mean(entropy, axis_name, valid)

    return len(outputs) * reductions.mean_over_layers(layer_loss, outputs)


def masked_attention_loss(
    logits_p: attention.Layers,
    logits_q: attention.Layers,
    mask: Array | Sequence[Array],
    num_prefix_tokens: int = 1,
    axis_name: str | None = None,
    valid: Array | None = None,
) -> Array:
    """Couples P's and Q's attention on the informative regions.

    `sum(mask |score_P - score_Q|) / (sum(mask) + 1e-8)` over the whole batch, mean over layers;
    both models' logits carry gradient.

    Args:
      logits_p: A of P's layers, [B, H, N, N] before softmax.
      logits_q: A of Q's layers.
      mask: [B, n] of 0 and 1 for all layers, or a sequence with one a layer; where layers are of
        [B * windows, H, N, N], its n is windows * N, an image's windows in a row.
      num_prefix_tokens: tokens before the patches; 0 compares the mean logit a patch receives.
      axis_name: mapped axis of the global batch.
      valid: images that count.
    """
    masks = mask if isinstance(mask, Sequence) else [mask] * len(logits_p)

    def layer_loss(layer_p: Array, layer_q: Array, layer_mask: Array) -> Array:
        layer_mask = jax.lax.stop_gradient(layer_mask)
        # Scores are linear in the logits: one pass over the difference, 0 where the layers agree.
        gap = attention.patch_scores(layer_p - layer_q, num_prefix_tokens)
        distance = reductions.absolute(gap).reshape(layer_mask.shape)
        return reductions.total(distance * layer_mask, axis_name, valid) / (
            reductions.total(layer_mask, axis_name, valid) + 1e-8
        )

    return reductions.mean_over_layers(layer_loss, logits_p, logits_q, masks)


def total_variation_loss(
    images: Array,
    axis_name: str | None = None,
    valid: Array | None = None,
    diagonal_weight: float = 1 / math.sqrt(2),
) -> Array:
    """Roughness: Frobenius norms, over the whole batch, of neighbour differences.

    Args:
      images: [B, height, width, channels].
      axis_name: mapped axis of the global batch.
      valid: images that count.
      diagonal_weight: of both diagonals' norms; those of horizontal and vertical neighbours count
        once. 1 is PSAQ-ViT's.
    """
    images = images.astype(jnp.float32)
    down = images[:, 1:] - images[:, :-1]
    right = images[:, :, 1:] - images[:, :, :-1]
    falling = images[:, 1:, 1:] - images[:, :-1, :-1]
    rising = images[:, :-1, 1:] - images[:, 1:, :-1]
    straight = reductions.norm(down, axis_name, valid) + reductions.norm(right, axis_name, valid)
    diagonal = reductions.norm(falling, axis_name, valid) + reductions.norm(
        rising, axis_name, valid
    )
    return straight + diagonal_weight * diagonal


def _draw_rows(key: Array | None, num_layers: int, num_patches: int, count: int) -> Array:
    """[num_layers, count] int: numbers of patches, for each layer drawn with a key of its own.

    For all layers at once: one by one, the draws were an eighth of DeiT-T's program to compile.
    """
    if key is None:
        raise ValueError(
            f"{num_patches} patches are more than max_patches={count}: a key is needed"
        )
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_layers))
    return jax.vmap(jax.random.permutation, (0, None))(keys, num_patches)[:, :count]
