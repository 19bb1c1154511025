"""The losses of synthesis: what makes an image one that P and Q can be aligned on.

Source: `docs/method.md` section 2.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax import regions
from maskaq_jax.devices import arrays
from maskaq_jax.devices.global_batch import LOCAL, GlobalBatch, safe_sqrt
from maskaq_jax.losses import _distances, _head_moments, _reductions


def class_loss(logits: Array, labels: Array, *, over: GlobalBatch = LOCAL) -> Array:
    """Cross entropy of P's logits with the labels the images are made for.

    `-log softmax(logits)[label]`, mean over images.

        >>> print(class_loss(jnp.zeros((1, 10)), jnp.array([3])))  # log 10
        2.3025851

    Args:
      logits: [B, classes].
      labels: [B] int.
      over: the global batch.

    Raises:
      ValueError: arrays of other axes, or labels that are no integers.
    """
    arrays.check_axes("logits", logits, "batch classes", "floating")
    arrays.check_axes("labels", labels, "batch", "integer")
    arrays.check_count("labels", labels, len(logits))
    return over.mean(_distances.cross_entropy(logits, labels))


def inter_head_similarity_loss(
    logits: regions.Layers,
    patches: regions.PatchTokens | int = 1,
    *,
    over: GlobalBatch = LOCAL,
) -> Array:
    """Pulls the heads' attention patterns together (MimiQ): mean of `1 - SSIM^2`.

    Each query row is min-max normalised; SSIM compares two heads' rows over the keys, for every
    query and every pair of heads, a head with itself included:
    `(2 m_h m_g + C1) / (m_h^2 + m_g^2 + C1) (2 cov_hg + C2) / (v_h + v_g + C2)`.

        >>> layer = jax.random.normal(jax.random.key(0), (1, 2, 5, 5))
        >>> print(f"{inter_head_similarity_loss([layer]):.3f}")
        0.414

    Args:
      logits: A of each layer, [B, H, N, N] before softmax.
      patches: which tokens are patches; a number is of tokens before them.
      over: the global batch.

    Raises:
      ValueError: logits of another shape.
    """
    arrays.check_layers(regions.LOGITS, logits=logits)
    tokens = regions.patch_tokens(patches)

    def layer_loss(layer: Array) -> Array:
        rows = tokens.logits(layer).astype(jnp.float32)
        mean, covariance = _head_moments.normalised_moments(rows)
        variance = jnp.diagonal(covariance, axis1=1, axis2=2).swapaxes(1, 2)
        mean_h, mean_g = mean[:, :, None], mean[:, None]
        variance_h, variance_g = variance[:, :, None], variance[:, None]
        luminance = (2 * mean_h * mean_g + _distances.SSIM_C1) / (
            mean_h**2 + mean_g**2 + _distances.SSIM_C1
        )
        structure = (2 * covariance + _distances.SSIM_C2) / (
            variance_h + variance_g + _distances.SSIM_C2
        )
        return over.mean(1 - jnp.square(luminance * structure))

    return _reductions.mean_over_layers(layer_loss, logits)


def patch_similarity_entropy_loss(
    logits: regions.Layers,
    patches: regions.PatchTokens | int = 1,
    key: Array | None = None,
    max_patches: int = 64,
    *,
    over: GlobalBatch = LOCAL,
) -> Array:
    """Decouples foreground from background: minus the entropy of the patches' similarities.

    `h = 0.5 (log(2 pi e) + log(var(S) + 1e-8))`, with S the cosine similarities of all pairs of
    head-averaged attention rows.

        >>> layer = jax.random.normal(jax.random.key(0), (1, 2, 5, 5))
        >>> print(f"{patch_similarity_entropy_loss([layer]):.3f}")
        -0.993

    Args:
      logits: A of each layer, [B, H, N, N] before softmax.
      patches: which tokens are patches; a number is of tokens before them.
      key: draws the rows where there are more than `max_patches`; the same ones for all images.
      max_patches: rows compared at most.
      over: the global batch.

    Raises:
      ValueError: logits of another shape; rows must be drawn and there is no key.
    """
    arrays.check_layers(regions.LOGITS, logits=logits)
    tokens = regions.patch_tokens(patches)
    sizes = [tokens.num_patches(layer) for layer in logits]
    draws = {
        size: _draw_rows(key, len(sizes), size, max_patches)
        for size in set(sizes)
        if size > max_patches
    }

    def layer_loss(layer: Array, drawn: Array | None) -> Array:
        rows = tokens.logits(layer).astype(jnp.float32).mean(axis=1)
        if drawn is not None:
            rows = rows[:, drawn]
        norm = safe_sqrt(jnp.sum(jnp.square(rows), axis=-1, keepdims=True))
        rows = rows / (norm + 1e-6)
        similarity = jnp.einsum("bik,bjk->bij", rows, rows)
        variance = similarity.var(axis=(1, 2))
        entropy = 0.5 * (math.log(2 * math.pi * math.e) + jnp.log(variance + 1e-8))
        return -over.mean(entropy)

    drawn = [draws[size][layer] if size in draws else None for layer, size in enumerate(sizes)]
    return _reductions.mean_over_layers(layer_loss, logits, drawn)


def patch_similarity_density_loss(
    outputs: regions.Layers,
    patches: regions.PatchTokens | int = 1,
    bandwidth: float = 0.01,
    num_points: int = 10,
    *,
    over: GlobalBatch = LOCAL,
) -> Array:
    """PSAQ-ViT's way to decouple: minus the entropy of a kernel density of patch similarities.

    `h = - integral of f log f`, by the trapezoid rule, with f a Gaussian kernel density of the
    cosine similarities of all pairs of head-averaged attention outputs (Li et al. 2022). As its
    authors do, the sum over layers, where all other losses are means. Points lie evenly between an
    image's smallest and largest similarity; the authors take those of the batch, which would make
    an image depend on the others.

        >>> layer = jax.random.normal(jax.random.key(0), (1, 2, 5, 8))
        >>> print(f"{patch_similarity_density_loss([layer]):.3f}")
        3.049

    Args:
      outputs: O of each layer, [B, H, N, d].
      patches: which tokens are patches; a number is of tokens before them.
      bandwidth: the kernel's standard deviation.
      num_points: points the density is evaluated at.
      over: the global batch.

    Raises:
      ValueError: outputs of another shape.
    """
    arrays.check_layers(regions.OUTPUTS, outputs=outputs)
    tokens = regions.patch_tokens(patches)

    def layer_loss(layer: Array) -> Array:
        rows = tokens.outputs(layer).astype(jnp.float32).mean(axis=1)
        norm = safe_sqrt(jnp.sum(jnp.square(rows), axis=-1, keepdims=True))
        rows = rows / (norm + 1e-6)
        similarity = jnp.einsum("bid,bjd->bij", rows, rows).reshape(len(rows), 1, -1)
        low, high = jax.lax.stop_gradient((similarity.min(axis=-1), similarity.max(axis=-1)))
        points = low + (high - low) * jnp.linspace(0, 1, num_points)[None]
        kernel = jnp.exp(-jnp.square((points[..., None] - similarity) / bandwidth) / 2)
        density = kernel.mean(axis=-1) / (bandwidth * math.sqrt(2 * math.pi))
        # The authors' small number, within the density.
        density = density + 1e-4
        entropy = -jnp.trapezoid(density * jnp.log(density), points, axis=-1)
        return -over.mean(entropy)

    return len(outputs) * _reductions.mean_over_layers(layer_loss, outputs)


def masked_attention_loss(
    logits_p: regions.Layers,
    logits_q: regions.Layers,
    mask: Array | Sequence[Array],
    patches: regions.PatchTokens | int = 1,
    *,
    over: GlobalBatch = LOCAL,
) -> Array:
    """Couples P's and Q's attention on the informative regions.

    `sum(mask |score_P - score_Q|) / (sum(mask) + 1e-8)` over the whole batch, mean over layers;
    both models' logits carry gradient.

        >>> layer = jax.random.normal(jax.random.key(0), (1, 2, 5, 5))
        >>> print(f"{masked_attention_loss([layer], [layer + 0.5], jnp.ones((1, 4))):.3f}")
        0.500

    Args:
      logits_p: A of P's layers, [B, H, N, N] before softmax.
      logits_q: A of Q's layers.
      mask: [B, n] of 0 and 1 for all layers, or a sequence with one a layer; where layers are of
        [B * windows, H, N, N], its n is windows * N, an image's windows in a row.
      patches: which tokens are patches, and what scores them; a number is of tokens before them.
      over: the global batch.

    Raises:
      ValueError: logits of another shape, or P's and Q's of different ones; masks that don't fit.
    """
    arrays.check_layers(regions.LOGITS, logits_p=logits_p, logits_q=logits_q)
    tokens = regions.patch_tokens(patches)
    masks = mask if isinstance(mask, Sequence) else [mask] * len(logits_p)
    if len(masks) != len(logits_p):
        raise ValueError(f"mask must be one a layer, got {len(masks)} for {len(logits_p)} layers")

    def layer_loss(layer_p: Array, layer_q: Array, layer_mask: Array) -> Array:
        layer_mask = jax.lax.stop_gradient(layer_mask)
        # Scores are linear in the logits: one pass over the difference, 0 where the layers agree.
        gap = tokens.scores(layer_p - layer_q)
        if gap.size != layer_mask.size:
            raise ValueError(f"a mask of shape {layer_mask.shape} can't mark {gap.shape} patches")
        distance = _reductions.absolute(gap).reshape(layer_mask.shape)
        return over.total(distance * layer_mask) / (over.total(layer_mask) + 1e-8)

    return _reductions.mean_over_layers(layer_loss, logits_p, logits_q, masks)


def total_variation_loss(
    images: Array,
    *,
    diagonal_weight: float = 1 / math.sqrt(2),
    over: GlobalBatch = LOCAL,
) -> Array:
    """Roughness: Frobenius norms, over the whole batch, of neighbour differences.

    `||down|| + ||right|| + w (||falling|| + ||rising||)`, with a pixel's differences to its
    neighbours below, at its right, and on both diagonals.

        >>> print(total_variation_loss(jnp.zeros((1, 2, 2, 1)).at[0, 0, 0].set(1.0)))  # 2 + w
        2.7071068

    Args:
      images: [B, height, width, channels].
      diagonal_weight: w, of both diagonals' norms; 1 is PSAQ-ViT's.
      over: the global batch.

    Raises:
      ValueError: images of other axes, or that are not of floating dtype.
    """
    arrays.check_axes("images", images, "batch height width channels", "floating")
    images = images.astype(jnp.float32)
    down = images[:, 1:] - images[:, :-1]
    right = images[:, :, 1:] - images[:, :, :-1]
    falling = images[:, 1:, 1:] - images[:, :-1, :-1]
    rising = images[:, :-1, 1:] - images[:, 1:, :-1]
    straight = over.norm(down) + over.norm(right)
    diagonal = over.norm(falling) + over.norm(rising)
    return straight + diagonal_weight * diagonal


def variation_gap_loss(images: Array, target: Array | float, *, over: GlobalBatch = LOCAL) -> Array:
    """Pulls the roughness of a batch to a target (PSAQ-ViT): `|variation - target|`.

        >>> print(variation_gap_loss(jnp.zeros((1, 4, 4, 3)), target=2.0))
        2.0

    Args:
      images: [B, height, width, channels].
      target: [] roughness, as of `total_variation_loss` with a diagonal weight of 1.
      over: the global batch.

    Raises:
      ValueError: as of `total_variation_loss`; or the target is no scalar.
    """
    arrays.check_axes("target", target, "")
    variation = total_variation_loss(images, diagonal_weight=1.0, over=over)
    return _reductions.absolute(variation - target)


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
