"""Marble: fields of noise, bent by one another and folded, as stone, clouds and ink are."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy import ndimage

from maskaq_jax.images import spectra, tones

# Times that an image is bent and folded, at most.
_MOST_FOLDS = 3
# Farthest and nearest that pixels are moved, as shares of the image's side.
_FARTHEST, _NEAREST = 0.18, 0.03
_NUM_FOLDS = 5
# Slopes of the fields' spectra, and of those that bend them.
_SLOPES, _BENDING_SLOPES = (1.2, 2.2), (1.8, 2.6)


def draw(key: Array, height: int, width: int) -> Array:
    """[height, width, 3] of 0 to 1.

    Args:
      key: PRNG key.
      height: in pixels.
      width: in pixels.
    """
    count_key, noise_key, share_key, plain_key, tone_key = jax.random.split(key, 5)
    # All at once: each draw takes long to compile.
    noise = jax.random.normal(noise_key, (height, width, 3 + 2 * _MOST_FOLDS))
    shares = jax.random.uniform(share_key, (_MOST_FOLDS, 5))
    plains = jnp.maximum(-0.5, 0.7 * jax.random.normal(plain_key, (_MOST_FOLDS, 1, 1, 3)))
    slopes = jax.random.uniform(count_key, (4,))
    fields = jnp.stack([_field(noise[..., i], slopes[i], _SLOPES) for i in range(3)], axis=-1)

    def fold(number: Array, fields: Array) -> Array:
        own = jax.lax.dynamic_slice_in_dim(noise, 3 + 2 * number, 2, axis=2)
        bent = _bend(fields, own, shares[number])
        return _fold(bent, shares[number], plains[number])

    count = 1 + jnp.int32(_MOST_FOLDS * slopes[3])
    return tones.give_tones(tone_key, jax.lax.fori_loop(0, count, fold, fields))


def _bend(fields: Array, noise: Array, shares: Array) -> Array:
    """Each pixel of [height, width, 3] from elsewhere, neighbours from near one another."""
    height, width, _ = fields.shape
    distance = _NEAREST + (_FARTHEST - _NEAREST) * shares[0]
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    places = [
        rows + distance * height * _field(noise[..., 0], shares[1], _BENDING_SLOPES),
        columns + distance * width * _field(noise[..., 1], shares[2], _BENDING_SLOPES),
    ]
    return jnp.stack(
        [ndimage.map_coordinates(fields[..., i], places, order=1, mode="mirror") for i in range(3)],
        axis=-1,
    )


def _fold(fields: Array, shares: Array, plain: Array) -> Array:
    """A wave, an edge, a crease, a plain, or nothing."""
    folds = (
        jnp.sin(fields * (1 + 3 * shares[3])),
        jnp.tanh(fields * (2 + 6 * shares[3])),
        jnp.abs(fields),
        jnp.minimum(fields, plain),
        fields,
    )
    return jnp.stack(folds)[jnp.int32(len(folds) * shares[4])]


def _field(noise: Array, share: Array, slopes: tuple[float, float]) -> Array:
    """[height, width] of noise of the slope that is this share of the way between two."""
    low, high = slopes
    return spectra.colour_noise(noise[..., None], low + (high - low) * share)[..., 0]
