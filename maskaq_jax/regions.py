"""Informative regions: the patches of a synthetic image that P attends to most.

Source: `docs/method.md` section 2, "informative regions".
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from maskaq_jax.devices import arrays

# One array [L, ...], or one a layer.
Layers = Array | Sequence[Array]

# Axes of a layer's attention logits and outputs.
LOGITS = "batch heads tokens tokens"
OUTPUTS = "batch heads tokens channels"


@dataclasses.dataclass(frozen=True)
class WindowGrid:
    """How a layer's tokens are cut into windows: a grid, padded to whole ones.

    Attributes:
      rows, columns: of the image's tokens.
      window: side of a window.
      shift: rows and columns by which the padded grid is rolled before it is cut.
    """

    rows: int
    columns: int
    window: int
    shift: int = 0

    @property
    def padded(self) -> tuple[int, int]:
        """Rows and columns of the whole windows."""
        rows, columns = (
            math.ceil(size / self.window) * self.window for size in (self.rows, self.columns)
        )
        return rows, columns

    @property
    def is_whole(self) -> bool:
        """Whether nothing is padded."""
        return self.padded == (self.rows, self.columns)

    def is_token(self) -> Array:
        """[windows, window^2] float32 1 for a token of the image, 0 for padding."""
        rows, columns = self.padded
        padding = ((0, rows - self.rows), (0, columns - self.columns))
        grid = jnp.pad(jnp.ones((self.rows, self.columns)), padding)
        grid = jnp.roll(grid, (-self.shift, -self.shift), axis=(0, 1))
        window = self.window
        grid = grid.reshape(rows // window, window, columns // window, window)
        return jnp.swapaxes(grid, 1, 2).reshape(-1, window * window)


@dataclasses.dataclass(frozen=True)
class PatchTokens:
    """Which of a layer's tokens are patches, and what tells how informative each of them is.

        ViT, DeiT                   PatchTokens(num_before=1)    # 2 with a distillation token
        ViT without a class token   PatchTokens(num_before=0, scored_by="all patches")
        detection tokens behind     PatchTokens(num_before=1, num_behind=100,
                                                scored_by="tokens behind")
        Swin                        WINDOWS, which is
                                    PatchTokens(num_before=0, scored_by="all patches", shared=False)
        Swin of padded windows      the same, with the `grids` of its layers

        >>> print(PatchTokens(num_before=1).logits(jnp.ones((1, 2, 50, 50))).shape)
        (1, 2, 49, 49)

    Attributes:
      num_before: tokens before the patches, such as a class token or registers.
      num_behind: tokens behind them.
      scored_by: whose attention scores a patch. 'class token': the logit which that token, the
        first one, gives the patch; 'tokens behind' and 'all patches': the mean of the logits that
        these give it (`docs/method.md` sections 2 and 5).
      shared: whether a patch is the same part of the image in all layers, so that they share one
        mask. Where it is not, as in a Swin, whose layers see windows and whose stages have grids of
        their own, each layer has a mask of its own.
      grids: of each layer, where windows hold padding, which is no patch; empty where none do.

    Raises:
      ValueError: there is no token of the kind that is to score; or, of its methods, a layer has no
        tokens but those before and behind.
    """

    num_before: int = 1
    num_behind: int = 0
    scored_by: Literal["class token", "all patches", "tokens behind"] = "class token"
    shared: bool = True
    grids: tuple[WindowGrid, ...] = ()

    def __post_init__(self) -> None:
        tokens = {"class token": self.num_before, "tokens behind": self.num_behind}
        if not tokens.get(self.scored_by, 1):
            raise ValueError(f"patches are to be scored by the {self.scored_by}: there is none")

    def logits(self, layer: Array) -> Array:
        """Attention logits among patches: [..., N, N] -> [..., n, n]."""
        return layer[..., self._among(layer), self._among(layer)]

    def outputs(self, layer: Array) -> Array:
        """Attention outputs of patches: [..., N, d] -> [..., n, d]."""
        return layer[..., self._among(layer), :]

    def scores(self, layer: Array) -> Array:
        """How informative each patch is, mean over heads: logits [B, H, N, N] -> [B, n]."""
        if self.scored_by == "class token":
            return layer[:, :, 0, self._among(layer)].mean(axis=1)
        if self.scored_by == "tokens behind":
            behind = layer[:, :, self._end(layer) :, self._among(layer)]
            return behind.mean(axis=(1, 2))
        return self.logits(layer).mean(axis=(1, 2))

    def num_patches(self, layer: Array) -> int:
        """The n of a layer's logits or outputs, [..., N, *]."""
        return layer.shape[-2] - self.num_before - self.num_behind

    def _among(self, layer: Array) -> slice:
        if self.num_patches(layer) < 1:
            raise ValueError(
                f"a layer of {layer.shape[-2]} tokens has no patches, with {self.num_before} "
                f"tokens before and {self.num_behind} behind them"
            )
        return slice(self.num_before, self._end(layer))

    def _end(self, layer: Array) -> int:
        return layer.shape[-2] - self.num_behind


# A Swin's.
WINDOWS = PatchTokens(num_before=0, scored_by="all patches", shared=False)


def patch_tokens(patches: PatchTokens | int) -> PatchTokens:
    """What a number of tokens before the patches is short for.

    A class token is the first of them, and scores. Where there are none, all patches do.
    """
    if isinstance(patches, PatchTokens):
        return patches
    return PatchTokens(patches, scored_by="class token" if patches else "all patches")


def mask_ratio(step: ArrayLike, num_steps: int, initial: float = 0.5, final: float = 0.1) -> Array:
    """Share of patches kept at a step: linear from `initial` to `final`, never below `final`.

        >>> print(mask_ratio(0, 100), mask_ratio(50, 100), mask_ratio(100, 100))
        0.5 0.3 0.1

    Args:
      step: [] step number t in `[0, num_steps)`.
      num_steps: T.
      initial: ratio at t = 0.
      final: ratio at t = T.

    Returns:
      [] float32.

    Raises:
      ValueError: a step that is no scalar, ratios that are none, or no steps.
    """
    arrays.check_axes("step", step, "")
    arrays.check_fraction("initial", initial)
    arrays.check_fraction("final", final)
    if num_steps < 1:
        raise ValueError(f"num_steps must be positive, got {num_steps}")
    progress = jnp.asarray(step, jnp.float32) / num_steps
    return jnp.maximum(initial * (1 - progress) + final * progress, final)


def patch_logits(logits: Array, patches: PatchTokens | int) -> Array:
    """Drops the rows and columns of other tokens: [..., N, N] -> [..., n, n].

    Raises:
      ValueError: logits of another shape.
    """
    arrays.check_axes("logits", logits, "... tokens tokens", "floating")
    return patch_tokens(patches).logits(logits)


def patch_scores(logits: Array, patches: PatchTokens | int) -> Array:
    """How informative the model finds each patch of one layer, as the mean over heads.

    With a class token, the logit that token gives the patch; without one, the mean logit the patch
    receives from all of them (`docs/method.md` sections 2 and 5).

        >>> print(patch_scores(jnp.arange(9.0).reshape(1, 1, 3, 3), 1))  # of two patches
        [[1. 2.]]

    Args:
      logits: [B, H, N, N].
      patches: which tokens are patches; a number is of tokens before them.

    Returns:
      [B, n], of the logits' dtype.

    Raises:
      ValueError: logits of another shape.
    """
    arrays.check_axes("logits", logits, LOGITS, "floating")
    return patch_tokens(patches).scores(logits)


def informative_regions(logits: Layers, ratio: ArrayLike, patches: PatchTokens | int = 1) -> Array:
    """Marks the top `max(1, int(n ratio))` of n patches by their score, mean over heads and layers.

        >>> logits = jax.random.normal(jax.random.key(0), (12, 3, 2, 50, 50))
        >>> print(informative_regions(logits, 0.5).sum(axis=1))  # of 49 patches, for 3 images
        [24. 24. 24.]

    Args:
      logits: [L, B, H, N, N], or a sequence of [B, H, N, N], P's attention logits.
      ratio: [] share of patches to keep.
      patches: which tokens are patches; a number is of tokens before them.

    Returns:
      [B, n] float32 of 0 and 1, without gradient.

    Raises:
      ValueError: logits of another shape, or layers of different ones; a ratio that is no share.
    """
    arrays.check_fraction("ratio", ratio)
    return _top_fraction(jax.lax.stop_gradient(mean_scores(logits, patches)), ratio)


def mean_scores(logits: Layers, patches: PatchTokens | int = 1) -> Array:
    """How informative each patch is, mean over heads and layers: what `informative_regions` ranks.

    Args:
      logits: [L, B, H, N, N], or a sequence of [B, H, N, N], attention logits.
      patches: which tokens are patches; a number is of tokens before them.

    Returns:
      [B, n], of the logits' dtype.

    Raises:
      ValueError: logits of another shape, or layers of different ones.
    """
    arrays.check_layers(LOGITS, logits=logits)
    if isinstance(logits, Sequence):
        arrays.check_same_shape(**{f"logits[{i}]": layer for i, layer in enumerate(logits)})
    layers = [patch_tokens(patches).scores(layer) for layer in logits]
    return jnp.stack(layers).mean(axis=0)


def window_regions(
    logits: Sequence[Array], ratio: ArrayLike, num_images: int, patches: PatchTokens = WINDOWS
) -> tuple[Array, ...]:
    """Informative regions of a model whose layers have patches of their own, for each layer.

    The windows of an image are gathered, so that the top ratio is of the image's tokens. Layers of
    other resolutions have other tokens, hence masks of their own (`docs/method.md` section 5).

        >>> layer = jax.random.normal(jax.random.key(0), (8, 2, 49, 49))  # 2 images of 4 windows
        >>> (mask,) = window_regions([layer], 0.5, num_images=2)
        >>> print(mask.shape, mask.sum(axis=1))
        (2, 196) [98. 98.]

    Args:
      logits: of [images * windows, H, N, N], an image's windows in a row; P's attention logits.
      ratio: [] share of tokens to keep.
      num_images: B.
      patches: which tokens of a window are patches; padding is never marked, nor asked.

    Returns:
      [B, windows * n] float32 of 0 and 1 for each layer, without gradient.

    Raises:
      ValueError: logits of another shape, or whose number is no multiple of the images'; grids of
        another number of layers; a ratio that is no share.
    """
    arrays.check_fraction("ratio", ratio)
    arrays.check_layers(LOGITS, logits=logits)
    for layer in logits:
        if len(layer) % num_images:
            raise ValueError(
                f"logits of {len(layer)} windows can't be those of {num_images} images"
            )
    if patches.grids and len(patches.grids) != len(logits):
        raise ValueError(f"there are {len(patches.grids)} grids for the {len(logits)} layers")

    def layer_regions(layer: Array, grid: WindowGrid | None) -> Array:
        if grid is None or grid.is_whole:
            scores = patches.scores(layer).reshape(num_images, -1)
            return _top_fraction(jax.lax.stop_gradient(scores), ratio)
        scores = _scores_beside_padding(layer, grid.is_token(), num_images)
        num_tokens = grid.rows * grid.columns
        return _top_fraction(jax.lax.stop_gradient(scores), ratio, num_tokens)

    grids: Sequence[WindowGrid | None] = patches.grids or [None] * len(logits)
    return tuple(layer_regions(layer, grid) for layer, grid in zip(logits, grids, strict=True))


def _scores_beside_padding(layer: Array, is_token: Array, num_images: int) -> Array:
    """[images * windows, H, N, N] -> [images, windows * N]: the mean of the logits that the tokens
    of its window give a token; padding gives none, and gets the least there is.
    """
    is_token = jnp.tile(is_token, (num_images, 1))
    total = jnp.einsum("bqk,bq->bk", layer.mean(axis=1), is_token)
    scores = jnp.where(is_token > 0, total / is_token.sum(axis=1, keepdims=True), -jnp.inf)
    return scores.reshape(num_images, -1)


def drop_regions(key: Array, mask: Array, rate: float = 0.3) -> Array:
    """Drops a share of the kept patches at random: of k, `max(1, round((1 - rate) k))` stay.

        >>> print(drop_regions(jax.random.key(0), jnp.ones(10)).sum())
        7.0

    Args:
      key: PRNG key.
      mask: [..., n] of 0 and 1.
      rate: share to drop, in [0, 1].

    Returns:
      [..., n] float32 of 0 and 1, at most `mask`.

    Raises:
      ValueError: a rate that is no share, or a mask without patches' axis.
    """
    arrays.check_fraction("rate", rate)
    arrays.check_axes("mask", mask, "... patches")
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
    patches: PatchTokens | int = 1,
) -> list[Array]:
    """The regions a step couples P and Q on: the informative ones, some dropped at random.

    Layers share them, or have their own (`PatchTokens.shared`). In an image, layers with equally
    many tokens draw alike.

        >>> logits = jax.random.normal(jax.random.key(0), (12, 3, 2, 50, 50))
        >>> masks = coupled_regions(list(logits), 0.5, 0.3, jax.random.split(jax.random.key(1), 3))
        >>> print(len(masks), masks[0].sum(axis=1))  # of 24 informative patches, 17 stay
        12 [17. 17. 17.]

    Args:
      logits: of each layer, as `informative_regions` takes them or, where layers have patches of
        their own, `window_regions`.
      ratio: [] share of patches in the informative regions.
      drop_rate: share of those to drop; 0 keeps all.
      keys: [B] PRNG keys, one for each image.
      patches: which tokens are patches; a number is of tokens before them.

    Returns:
      [B, n] float32 of 0 and 1 for each layer, without gradient; as many ones for every image.

    Raises:
      ValueError: logits of another shape, or that don't fit the keys' number; a ratio or rate that
        is no share.
    """
    arrays.check_fraction("drop_rate", drop_rate)
    patches = patch_tokens(patches)

    def drop(mask: Array) -> Array:
        if not drop_rate:
            return mask
        return jax.vmap(drop_regions, (0, 0, None))(keys, mask, drop_rate)

    if patches.shared:
        mask = informative_regions(logits, ratio, patches)
        arrays.check_count("keys", keys, len(mask))
        return [drop(mask)] * len(logits)
    return [drop(mask) for mask in window_regions(logits, ratio, len(keys), patches)]


def _top_fraction(scores: Array, ratio: ArrayLike, num_patches: int | None = None) -> Array:
    """Marks a fraction of the patches, of which the last axis may hold fewer than it has places."""
    num_patches = num_patches or scores.shape[-1]
    if isinstance(ratio, float):  # in its own precision: in float32 0.7 of 90 is 63, not 62
        return _top(scores, max(1, math.floor(ratio * num_patches)))
    return _top(scores, jnp.maximum(1, jnp.floor(jnp.asarray(ratio) * num_patches)))


def _top(scores: Array, count: ArrayLike) -> Array:
    """1.0 for the `count` largest of the last axis; equal scores in order of position."""
    rank = jnp.argsort(jnp.argsort(-scores, axis=-1, stable=True), axis=-1)
    return (rank < count).astype(jnp.float32)
