"""What the embedded detector and segmenter learn from: scenes by number, and losses."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from maskaq_jax import data
from maskaq_jax.data import scenes
from maskaq_jax.devices import parallel
from maskaq_jax.evaluation.loop import EvaluationLoop
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.losses.boxes import box_distance
from maskaq_jax.models import Model
from maskaq_jax.runs.measurements import figures_evaluator

_SEED = 0
# As in DETR: most tokens find nothing.
_WEIGHT_OF_NOTHING = 0.1
# Of the distance between a token's own place and a garment's centre, among the costs of giving it
# that garment. Without places tokens take long to agree which of them finds what.
_WEIGHT_OF_PLACES = 10.0
# Label maps of this many rows and columns a patch are what a detector's patches are asked for too,
# while it is trained: it learns where what is far sooner than from boxes alone.
_CELLS_OF_A_PATCH = 4


class Batch(NamedTuple):
    """Scenes to train on, padded to as many garments as a scene can have.

    Attributes:
      images: [B, 96, 96] uint8.
      boxes: [B, 4, 4] float32 centre, width and height as shares of the image.
      classes: [B, 4] int32.
      valid: [B, 4] bool, which of them there are.
      label_maps: [B, 96, 96] int32.
    """

    images: Any
    boxes: Any
    classes: Any
    valid: Any
    label_maps: Any


class PatchMaps(nn.Module):
    """Label maps of patches, [B, rows, columns, C] -> [B, rows * cells, columns * cells, classes].

    A head for the training alone.
    """

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        cells, classes = _CELLS_OF_A_PATCH, len(scenes.MAPPED)
        found = nn.Dense(cells * cells * classes)(tokens)
        batch, rows, columns, _ = found.shape
        found = found.reshape(batch, rows, columns, cells, cells, classes)
        return found.transpose(0, 1, 3, 2, 4, 5).reshape(
            batch, rows * cells, columns * cells, classes
        )


def token_places(count: int) -> np.ndarray:
    """[count, 2] x and y from 0 to 1 of tokens in the rows of a grid, a square number of them."""
    side = math.isqrt(count)
    if side**2 != count:
        raise ValueError(f"tokens have places on a square grid, which {count} don't fill")
    centres = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(centres, centres), axis=-1).reshape(count, 2)


def set_loss(outputs: dict[str, Array], batch: Batch) -> Array:
    """DETR's loss, with a matching in which places count most.

    A garment of class c and box b, whose centre is m, is given a token of its own, so that the sum
    of `box_distance(boxes, b) - p(c) + 10 |place - m|_1` is smallest (Hungarian algorithm); all
    other tokens are to find nothing.

    Args:
      outputs: `logits` [B, tokens, classes + 1] and `pred_boxes` [B, tokens, 4].
      batch: with the boxes and classes to find.

    Returns:
      [] float32: the cross entropy of the tokens' classes, mean with a weight of 0.1 for nothing,
      and the mean box distance of the garments.
    """
    logits, boxes = outputs["logits"], outputs["pred_boxes"]
    images = jnp.arange(len(logits))[:, None]
    shape = (*logits.shape[:2], batch.classes.shape[1], 4)
    distances = box_distance(
        jnp.broadcast_to(boxes[:, :, None], shape), jnp.broadcast_to(batch.boxes[:, None], shape)
    )
    likelihoods = jnp.take_along_axis(
        jax.nn.softmax(logits), jnp.broadcast_to(batch.classes[:, None], shape[:3]), axis=2
    )
    places = token_places(shape[1])[None, :, None]
    away = jnp.abs(places - batch.boxes[:, None, :, :2]).sum(axis=-1)
    costs = distances - likelihoods + _WEIGHT_OF_PLACES * away
    # What there is not costs every token the same, so it takes none from another garment.
    costs = jnp.where(batch.valid[:, None], costs, 0.0)
    tokens, garments = jax.vmap(optax.assignment.hungarian_algorithm)(jax.lax.stop_gradient(costs))
    valid = batch.valid[images, garments]
    nothing = logits.shape[-1] - 1
    found = jnp.where(valid, batch.classes[images, garments], nothing)
    classes = jnp.full(logits.shape[:2], nothing).at[images, tokens].set(found)
    weights = jnp.where(classes == nothing, _WEIGHT_OF_NOTHING, 1.0)
    entropies = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    matched = jnp.where(valid, distances[images, tokens, garments], 0.0)
    return (weights * entropies).sum() / weights.sum() + matched.sum() / valid.sum()


def map_loss(logits: Array, label_maps: Array) -> Array:
    """Cross entropy of [B, rows, columns, classes] with labels [B, rows, columns], mean of all."""
    # The slope of a lookup is a scatter, which takes a CPU longer than a product.
    return optax.softmax_cross_entropy(logits, jax.nn.one_hot(label_maps, logits.shape[-1])).mean()


def training_loss(model: Model, pixels: Pixels, batch: Batch, params: Any) -> Array:
    """Loss of a batch.

    Args:
      model: detector or segmenter.
      pixels: its normalisation.
      batch: of scenes.
      params: `model`'s, and `patch_maps` where it detects.
    """
    images = pixels.from_bytes(jnp.repeat(batch.images[..., None], 3, axis=-1))
    outputs, out = model.apply({"params": params["model"]}, images)
    if model.task == "segmentation":
        return map_loss(outputs, batch.label_maps)
    cells: Any = PatchMaps().apply(
        {"params": params["patch_maps"]}, _patch_tokens(model, out["tokens"])
    )
    stride = scenes.CANVAS // cells.shape[1]
    centres = batch.label_maps[:, stride // 2 :: stride, stride // 2 :: stride]
    return set_loss(outputs, batch) + map_loss(cells, centres)


def _patch_tokens(model: Any, tokens: Array) -> Array:
    """[B, N, C] -> those of patches, [B, rows, columns, C]."""
    rows, columns = model.patch_grid
    before = model.patches.num_before
    return tokens[:, before : before + rows * columns].reshape(
        len(tokens), rows, columns, tokens.shape[-1]
    )


def sine_positions(places: np.ndarray, features: int) -> np.ndarray:
    """[N, 2] places, x and y from 0 to 1 -> [N, features] sines and cosines of half a wave to eight
    waves an image.

    Raises:
      ValueError: features that are no multiple of four.
    """
    if features % 4:
        raise ValueError(f"positions of sines take a multiple of 4 features, got {features}")
    angles = np.pi * np.geomspace(1, 16, features // 4)
    waves = [function(axis[:, None] * angles) for axis in places.T for function in (np.sin, np.cos)]
    return np.concatenate(waves, axis=-1).astype(np.float32)


def _with_places(model: Any, params: dict[str, Any]) -> dict[str, Any]:
    """A detector's first weights, whose position embeddings say where a token is.

    Drawn at random they are so small beside the patches that it takes long to learn.
    """
    rows, columns = model.patch_grid
    if rows != columns:
        raise ValueError(f"patches must be a square, got {rows} x {columns}")
    patches, tokens = (
        sine_positions(token_places(count), model.embed_dim)
        for count in (rows * columns, model.num_detection_tokens)
    )
    before = model.patches.num_before
    embedding = np.concatenate([np.zeros((before, model.embed_dim), np.float32), patches, tokens])
    return params | {"pos_embed": jnp.asarray(embedding)[None]}


def first_params(model: Model, pixels: Pixels) -> dict[str, Any]:
    """Weights before training, of the model and of what helps a detector."""
    own, other = jax.random.split(jax.random.key(_SEED))
    image = pixels.from_bytes(np.zeros((1, *model.input_shape), np.uint8))
    params = {"model": model.init(own, image)["params"]}
    if model.task == "detection":
        params["model"] = _with_places(model, params["model"])
        _, out = model.apply({"params": params["model"]}, image)
        params["patch_maps"] = PatchMaps().init(other, _patch_tokens(model, out["tokens"]))[
            "params"
        ]
    return params


def read_batches(
    garments: np.ndarray, labels: np.ndarray, batch_size: int, first: int, stop: int
) -> Iterator[Batch]:
    """Batches by number, the next one drawn while one is trained on.

    Args:
      garments: [N, 28, 28] uint8.
      labels: [N] their classes.
      batch_size: scenes of each.
      first: number of the first batch.
      stop: number behind the last one.
    """

    def draw(number: int) -> Batch:
        keys = range(number * batch_size, (number + 1) * batch_size)
        split = scenes.SPLITS["training"]
        return _stack([scenes.draw_scene(garments, labels, (_SEED, split, key)) for key in keys])

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(draw, first)
        for number in range(first, stop):
            batch = ahead.result()
            if number + 1 < stop:
                ahead = pool.submit(draw, number + 1)
            yield batch


def _stack(drawn: list[scenes.Scene]) -> Batch:
    shape = (len(drawn), scenes.MOST_GARMENTS)
    boxes = np.full((*shape, 4), 0.5, np.float32)
    classes, valid = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for place, scene in enumerate(drawn):
        count = len(scene.classes)
        left_top, right_bottom = scene.corners[:, :2], scene.corners[:, 2:]
        boxes[place, :count, :2] = (left_top + right_bottom) / (2 * scenes.CANVAS)
        boxes[place, :count, 2:] = (right_bottom - left_top) / scenes.CANVAS
        classes[place, :count] = scene.classes
        valid[place, :count] = True
    images, label_maps = (
        np.stack([getattr(scene, name) for scene in drawn]) for name in ("image", "label_map")
    )
    return Batch(images, boxes, classes, valid, label_maps)


class Figures:
    """Measures weights on scenes of a split."""

    def __init__(self, split: str, model: Model, pixels: Pixels):
        """Opens the scenes; compiles nothing yet."""
        self._model, self._pixels = model, pixels
        self._mesh = parallel.make_mesh()
        self._dataset = scenes.Scenes(split).open(model)
        evaluator = figures_evaluator(model.task, self._dataset)
        self._loop = EvaluationLoop(evaluator, model, self._mesh)

    def __call__(self, params: Any) -> dict[str, float]:
        """Figures in percent, those of single classes left out."""
        rows = parallel.rows_of_batches(len(self._dataset), 50, self._mesh)
        shape, labels = self._model.input_shape, data.label_shape(self._model)
        batches = data.read_batches(self._dataset, self._pixels, shape, rows, label_shape=labels)
        found = self._loop.run({"params": params}, batches, lambda count: None).figures
        return {name: round(value, 2) for name, value in found.items() if "/" not in name}
