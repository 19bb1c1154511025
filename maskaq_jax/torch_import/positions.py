"""Position embeddings of a file -> those of a model's number of tokens.

A classifier's are resampled by timm's rule: Keys' cubic with a = -1/2, smoothed where the grid
shrinks. A detector's and a segmenter's by PyTorch's, as their projects do while they run: a = -3/4,
and nothing is smoothed.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskaq_jax.models import Model
from maskaq_jax.models.vit import VisionTransformer
from maskaq_jax.models.yolos import Yolos
from maskaq_jax.storage.notes import Tell

State = dict[str, np.ndarray]
Grid = tuple[int, int]

_NAME, _OF_BLOCKS = "pos_embed", "mid_pos_embed"
# Heights and widths of the images that hustvl's files are of.
_OF_YOLOS = ((512, 864), (800, 1333), (800, 1344))


def fit_positions(
    state: Mapping[str, np.ndarray],
    model: Model,
    length: int,
    image_size: Grid | None,
    source: str,
    tell: Tell,
) -> State:
    """Position embeddings of the model's number of tokens.

    Args:
      state: under timm's names, with a `pos_embed`; YOLOS's others are of all blocks, or of each.
      model: that they are for.
      length: tokens that have positions there.
      image_size: height and width of the images that the file is of; None if nothing says so.
      source: of the weights, for messages.
      tell: is told what was resampled.

    Returns:
      The whole state, with the positions of blocks one by one.

    Raises:
      ValueError: which grid they are of doesn't show.
    """
    own = [array for name, array in state.items() if name.rpartition(".")[2] in (_NAME, _OF_BLOCKS)]
    if not all(jnp.issubdtype(array.dtype, jnp.floating) for array in own):
        return dict(state)  # which is refused, as no weights are of whole numbers
    if isinstance(model, Yolos):
        return _fit_yolos(state, model, image_size, source, tell)
    return dict(state) | _fit_square(state, model, length, image_size, source, tell)


def _fit_square(
    state: Mapping[str, np.ndarray],
    model: Model,
    length: int,
    image_size: Grid | None,
    source: str,
    tell: Tell,
) -> State:
    """Of a ViT, whose grids are squares; and the class token that takes a position up.

    Where positions are of the patches alone, that of a class token is part of the token.
    """
    embedding = np.asarray(state[_NAME], np.float32)
    rows, columns = model.patch_grid
    num_before = length - rows * columns
    changed = {}
    if num_before == 0 and "cls_token" in state and _is_square(embedding.shape[1:2], before=1):
        changed["cls_token"] = state["cls_token"] + embedding[:, :1]
        embedding = embedding[:, 1:]
    _check_grid(embedding.shape, model, num_before, image_size, source)
    is_classifier = isinstance(model, VisionTransformer)
    changed[_NAME] = resample(embedding, length, num_before, by_timm=is_classifier)
    if changed[_NAME].shape != embedding.shape:
        old = math.isqrt(max(0, embedding.shape[1] - num_before))
        rule = (
            "timm's rule; transformers resamples by another, which gives outputs that differ by "
            "some hundredths"
            if is_classifier
            else "PyTorch's rule, as transformers does"
        )
        tell(
            f"{source}: position embeddings of {old} x {old} patches are resampled to {rows} x "
            f"{columns}, by {rule}"
        )
    return changed


def _check_grid(
    shape: tuple[int, ...], model: Model, num_before: int, image_size: Grid | None, source: str
) -> None:
    """Raises ValueError where as many positions as a square has are said to be of another shape."""
    patch: Any = getattr(model, "patch_size", None)
    if image_size is None or patch is None or not _is_square(shape[1:2], before=num_before):
        return
    said = image_size[0] // patch, image_size[1] // patch
    side = math.isqrt(shape[1] - num_before)
    if math.prod(said) == side**2 and said != (side, side):
        raise ValueError(
            f"{source}: position embeddings are of {said[0]} x {said[1]} patches where images are "
            f"{image_size[0]} x {image_size[1]}, as is said beside the weights, and models here "
            f"have square images, of {side} x {side} patches"
        )


def _is_square(shape: tuple[int, ...], before: int) -> bool:
    return len(shape) == 1 and math.isqrt(max(0, shape[0] - before)) ** 2 + before == shape[0]


def resample(
    embedding: np.ndarray, length: int, num_prefix_tokens: int, by_timm: bool = True
) -> np.ndarray:
    """Position embeddings [1, tokens, C] for another number of patches; both grids are square."""
    if embedding.ndim != 3:
        return embedding
    old, new = (math.isqrt(max(0, n - num_prefix_tokens)) for n in (embedding.shape[1], length))
    if embedding.shape[1] == length or old**2 + num_prefix_tokens != embedding.shape[1]:
        return embedding
    channels = embedding.shape[-1]
    prefix, patches = np.split(np.asarray(embedding, np.float32), [num_prefix_tokens], axis=1)
    grid = patches.reshape(1, old, old, channels)
    if by_timm:
        resized = np.asarray(
            jax.image.resize(grid, (1, new, new, channels), "cubic", antialias=True)
        )
    else:
        resized = resize_bicubic(grid, (new, new))
    return np.concatenate([prefix, resized.reshape(1, new * new, channels)], axis=1)


def _fit_yolos(
    state: Mapping[str, np.ndarray],
    model: Yolos,
    image_size: Grid | None,
    source: str,
    tell: Tell,
) -> State:
    fitted = dict(state)
    of_blocks = fitted.get(_OF_BLOCKS)
    if of_blocks is not None and of_blocks.ndim == 4:
        del fitted[_OF_BLOCKS]
        fitted |= {f"blocks.{i}.{_OF_BLOCKS}": own for i, own in enumerate(of_blocks)}
    tokens = fitted.get("det_token")
    num_behind = model.num_detection_tokens
    if tokens is not None and tokens.ndim == 3:
        num_behind = tokens.shape[1]
    lengths = {
        name: array.shape[1] - 1 - num_behind
        for name, array in fitted.items()
        if name.rpartition(".")[2] in (_NAME, _OF_BLOCKS)
        and array.ndim == 3
        and array.shape[0] == 1
    }
    resampled = set()
    for name, count in lengths.items():
        if count < 1:
            continue
        old = _stored_grid(count, model, image_size, source)
        if old == model.patch_grid:
            continue
        first, patches, behind = np.split(
            np.asarray(fitted[name], np.float32), [1, 1 + count], axis=1
        )
        grid = resize_bicubic(patches.reshape(1, *old, -1), model.patch_grid)
        flat = grid.reshape(1, -1, patches.shape[-1])
        fitted[name] = np.concatenate([first, flat, behind], axis=1)
        resampled.add(old)
    rows, columns = model.patch_grid
    for old in sorted(resampled):
        tell(
            f"{source}: position embeddings of {old[0]} x {old[1]} patches are resampled to {rows} "
            f"x {columns}, by PyTorch's rule, as transformers does"
        )
    return fitted


def _stored_grid(count: int, model: Yolos, image_size: Grid | None, source: str) -> Grid:
    """Rows and columns of so many patches, which only their number shows.

    Raises:
      ValueError: it can't be told.
    """

    def grid(size: Grid) -> Grid:
        return size[0] // model.patch_size, size[1] // model.patch_size

    if image_size is not None and math.prod(grid(image_size)) == count:
        return grid(image_size)
    known = next((own for own in map(grid, _OF_YOLOS) if math.prod(own) == count), None)
    if math.prod(model.patch_grid) == count:
        if known in (None, model.patch_grid):
            return model.patch_grid
        raise ValueError(
            f"{source}: position embeddings of {count} patches may be of {known[0]} x {known[1]}, "
            f"as in the authors' files, or of {model.patch_grid[0]} x {model.patch_grid[1]}, as in "
            "the model: a config.json beside the weights, with their image_size, says which"
        )
    if known is not None:
        return known
    side = math.isqrt(count)
    if side**2 == count:
        return side, side
    raise ValueError(
        f"{source}: position embeddings of {count} patches don't show of which rows and columns: "
        "a config.json beside the weights, with their image_size, says it"
    )


def resize_bicubic(grid: np.ndarray, size: Grid) -> np.ndarray:
    """[B, rows, columns, C] -> [B, *size, C] as `interpolate(mode="bicubic",
    align_corners=False)`; borders are repeated.
    """
    by_row, by_column = (
        _cubic_weights(old, new) for old, new in zip(grid.shape[1:3], size, strict=True)
    )
    resized: Any = np.einsum("ir,brcf->bicf", by_row, np.asarray(grid, np.float64))
    resized = np.einsum("jc,bicf->bijf", by_column, resized)
    return resized.astype(np.float32)


def _cubic_weights(old: int, new: int) -> np.ndarray:
    """[new, old] share of each old place in each new one."""
    weights = np.zeros((new, old))
    position = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(position).astype(int) - 1
    for tap in range(4):
        distance = np.abs(position - (first + tap))
        near = 1.25 * distance**3 - 2.25 * distance**2 + 1
        far = -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        share = np.where(distance <= 1, near, far)
        np.add.at(weights, (np.arange(new), np.clip(first + tap, 0, old - 1)), share)
    return weights
