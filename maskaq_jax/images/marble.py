"""Marble: fields of noise, bent by one another and folded, as stone, clouds and ink are."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy import ndimage

from maskaq_jax.images import spectra, tones
from maskaq_jax.images.geometry import between

# Times that an image is bent and folded, at most.
_MOST_FOLDS = 3
# Standard deviation of how far pixels are moved, least and most, as shares of the image's side.
_NEAREST, _FARTHEST = 0.03, 0.18
# Slopes of the fields' spectra, and of those that bend them.
_SLOPES, _BENDING_SLOPES = (1.2, 2.2), (1.8, 2.6)


class _Fold(NamedTuple):
    """How an image is bent, and then folded.

    Attributes:
      distance: [] 0 to 1, how far pixels are moved.
      down_slope: [] 0 to 1, of the field that moves them down.
      right_slope: [] the same, to the right.
      strength: [] 0 to 1, of a wave or an edge.
      kind: [] 0 to 1, which fold it is.
    """

    distance: Array
    down_slope: Array
    right_slope: Array
    strength: Array
    kind: Array


def draw(key: Array, height: int, width: int) -> Array:
    """[height, width, 3] of 0 to 1.

    Args:
      key: PRNG key.
      height: in pixels.
      width: in pixels.
    """
    field_key, noise_key, fold_key, plain_key, tone_key = jax.random.split(key, 5)
    # All at once: each draw takes long to compile.
    noise = jax.random.normal(noise_key, (height, width, 3 + 2 * _MOST_FOLDS))
    folds = _Fold(*jax.random.uniform(fold_key, (len(_Fold._fields), _MOST_FOLDS)))
    plains = jnp.maximum(-0.5, 0.7 * jax.random.normal(plain_key, (_MOST_FOLDS, 1, 1, 3)))
    count, *slopes = jax.random.uniform(field_key, (4,))
    fields = [_field(noise[..., i], slope, _SLOPES) for i, slope in enumerate(slopes)]

    def fold(number: Array, fields: Array) -> Array:
        own = jax.tree.map(lambda values: values[number], folds)
        bending = jax.lax.dynamic_slice_in_dim(noise, 3 + 2 * number, 2, axis=2)
        return _fold(_bend(fields, bending, own), own, plains[number])

    fields = jax.lax.fori_loop(
        0, 1 + jnp.int32(_MOST_FOLDS * count), fold, jnp.stack(fields, axis=-1)
    )
    return tones.give_tones(tone_key, fields)


def _bend(fields: Array, noise: Array, fold: _Fold) -> Array:
    """Each pixel of [height, width, 3] from elsewhere, neighbours from near one another."""
    height, width, _ = fields.shape
    distance = between(_NEAREST, _FARTHEST, fold.distance)
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    places = [
        rows + distance * height * _field(noise[..., 0], fold.down_slope, _BENDING_SLOPES),
        columns + distance * width * _field(noise[..., 1], fold.right_slope, _BENDING_SLOPES),
    ]
    return jnp.stack(
        [ndimage.map_coordinates(fields[..., i], places, order=1, mode="mirror") for i in range(3)],
        axis=-1,
    )


def _fold(fields: Array, fold: _Fold, plain: Array) -> Array:
    """A wave, an edge, a crease, a plain, or nothing; each channel of mean 0 and deviation 1.

    Without that a plain might lie below all of a crease, and nothing would be left of it.
    """
    folded = jnp.stack(
        [
            jnp.sin(fields * between(1.0, 4.0, fold.strength)),
            jnp.tanh(fields * between(2.0, 8.0, fold.strength)),
            jnp.abs(fields),
            jnp.minimum(fields, plain),
            fields,
        ]
    )
    chosen = folded[jnp.int32(len(folded) * fold.kind)]
    centred = chosen - chosen.mean(axis=(0, 1), keepdims=True)
    return centred / jnp.maximum(centred.std(axis=(0, 1), keepdims=True), 1e-6)


def _field(noise: Array, share: Array, slopes: tuple[float, float]) -> Array:
    """[height, width] of noise of the slope that is this share of the way between two."""
    return spectra.with_slope(noise[..., None], between(*slopes, share))[..., 0]
