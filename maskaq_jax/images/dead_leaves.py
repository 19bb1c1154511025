"""Dead leaves: opaque shapes of random size, colour and texture that cover one another.

They have the edges, the occlusions and the power spectrum of photographs, without any (Ruderman
1997; Lee, Mumford and Huang 2001; as training images: Baradad et al. 2021).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.devices.keys import image_keys, named_key
from maskaq_jax.images.pixels import Pixels

# An image has some of these shapes, log-uniform in number.
_MAX_SHAPES = 96
_MIN_SHAPES = 8
# Half-planes that a polygon is cut out by.
_NUM_SIDES = 7
# Textures of an image, one of which fills a shape.
_NUM_TEXTURES = 4


class _Leaf(NamedTuple):
    """One shape.

    Attributes:
      centre: [2] of the image's side.
      radius: [] of the same.
      stretch: [] of its second axis, 0 to 1.
      angle: [] of its first axis.
      normals: [sides] angles of a polygon's sides.
      distances: [sides] of the sides from the centre, in radii.
      is_round: [] bool, an ellipse instead.
      colour: [channels], 0 to 1.
      shading: [2] slope of the brightness.
      texture: [] int, the one that fills it.
      contrast: [] of the texture.
    """

    centre: Array
    radius: Array
    stretch: Array
    angle: Array
    normals: Array
    distances: Array
    is_round: Array
    colour: Array
    shading: Array
    texture: Array
    contrast: Array


def draw_leaves(key: Array, indices: Array, shape: tuple[int, ...], pixels: Pixels) -> Array:
    """[B, *shape] images of leaves in normalised pixel space; equal channels if `pixels.grey`.

    Args:
      key: of the images.
      indices: [B] int32 global numbers of the images.
      shape: height, width and channels.
      pixels: the normalisation.
    """
    keys = image_keys(named_key(key, "leaves"), indices)
    images = jax.lax.map(lambda own: _draw_image(own, shape, pixels.grey), keys)
    return pixels.clip(pixels.normalise(images))


def _draw_image(key: Array, shape: tuple[int, ...], is_grey: bool) -> Array:
    """[*shape] of 0 to 1."""
    count_key, leaf_key, texture_key, ground_key = jax.random.split(key, 4)
    height, width, channels = shape
    colours = 1 if is_grey else channels
    textures = _draw_textures(texture_key, (height, width, colours))
    spread = jnp.log(_MAX_SHAPES / _MIN_SHAPES)
    count = _MIN_SHAPES * jnp.exp(spread * jax.random.uniform(count_key))
    leaves = jax.vmap(lambda own: _draw_leaf(own, colours))(
        jax.random.split(leaf_key, _MAX_SHAPES + 1)
    )
    # The large ones lie below, so that no leaf covers all others.
    order = jnp.argsort(-leaves.radius)
    leaves = jax.tree.map(lambda leaf: leaf[order], leaves)
    ground = _draw_leaf(ground_key, colours)
    rows, columns = jnp.meshgrid(_centres(height), _centres(width), indexing="ij")

    def paint(image: Array, numbered: tuple[Array, _Leaf]) -> tuple[Array, None]:
        number, leaf = numbered
        share = _coverage(leaf, rows, columns, max(height, width)) * (number < count)
        filled = _fill(leaf, rows, columns, textures)
        return image + share[..., None] * (filled - image), None

    image, _ = jax.lax.scan(
        paint, _fill(ground, rows, columns, textures), (jnp.arange(_MAX_SHAPES + 1), leaves)
    )
    return jnp.broadcast_to(image.clip(0, 1), shape)


def _draw_leaf(key: Array, channels: int) -> _Leaf:
    keys = iter(jax.random.split(key, 14))

    def uniform(low: float, high: float, *shape: int) -> Array:
        return jax.random.uniform(next(keys), shape, minval=low, maxval=high)

    # Areas by a power law, the same share of the image for each scale: p(r) ~ r^-3.
    low, high = 0.03**-2, 0.5**-2
    radius = (low + (high - low) * uniform(0, 1)) ** -0.5
    brightness = jax.random.beta(next(keys), 1.2, 1.2)
    tint = 0.15 * jax.random.normal(next(keys), (channels,)) * jnp.exp(uniform(-1.2, 0.7))
    return _Leaf(
        centre=uniform(0, 1, 2),
        radius=radius,
        stretch=uniform(0.4, 1.0),
        angle=uniform(0, jnp.pi),
        normals=uniform(0, 2 * jnp.pi, _NUM_SIDES),
        distances=uniform(0.4, 1.0, _NUM_SIDES),
        is_round=uniform(0, 1) < 0.33,
        colour=jnp.clip(brightness + tint, 0, 1),
        shading=0.5 * jax.random.normal(next(keys), (2,)),
        texture=jnp.int32(uniform(0, _NUM_TEXTURES)),
        contrast=uniform(0.0, 0.2),
    )


def _draw_textures(key: Array, shape: tuple[int, int, int]) -> Array:
    """[textures, *shape] noise of mean 0 and deviation 1 whose power falls with the frequency.

    Channels share most of it: surfaces vary in brightness more than in colour.
    """
    height, width, _ = shape

    def draw(own: Array) -> Array:
        slope_key, common_key, channel_key = jax.random.split(own, 3)
        slope = jax.random.uniform(slope_key, (), minval=0.8, maxval=1.6)
        noise = jax.random.normal(common_key, (height, width, 1)) + 0.6 * jax.random.normal(
            channel_key, shape
        )
        rows, columns = jnp.fft.fftfreq(height), jnp.fft.rfftfreq(width)
        frequency = jnp.sqrt(jnp.square(rows)[:, None] + jnp.square(columns)[None])
        power = jnp.maximum(frequency, 1 / max(height, width)) ** -slope
        spectrum = jnp.fft.rfft2(noise, axes=(0, 1)) * power[..., None]
        texture = jnp.fft.irfft2(spectrum, (height, width), axes=(0, 1))
        return (texture - texture.mean()) / jnp.maximum(texture.std(), 1e-8)

    return jax.vmap(draw)(jax.random.split(key, _NUM_TEXTURES))


def _coverage(leaf: _Leaf, rows: Array, columns: Array, size: int) -> Array:
    """[height, width] share of each pixel that a leaf covers."""
    down, right = rows - leaf.centre[0], columns - leaf.centre[1]
    cosine, sine = jnp.cos(leaf.angle), jnp.sin(leaf.angle)
    along = (right * cosine + down * sine) / leaf.radius
    across = (down * cosine - right * sine) / (leaf.radius * leaf.stretch)
    ellipse = jnp.hypot(along, across) - 1
    sides = (
        along[..., None] * jnp.cos(leaf.normals)[None, None]
        + across[..., None] * jnp.sin(leaf.normals)[None, None]
        - leaf.distances[None, None]
    )
    # A polygon may be open on one side: the ellipse closes it.
    outside = jnp.where(leaf.is_round, ellipse, jnp.maximum(sides.max(axis=-1), ellipse))
    return jnp.clip(0.5 - outside * leaf.radius * leaf.stretch * size, 0, 1)


def _fill(leaf: _Leaf, rows: Array, columns: Array, textures: Array) -> Array:
    """[height, width, channels] of a leaf: colour, shading, texture."""
    shading = leaf.shading[0] * (rows - 0.5) + leaf.shading[1] * (columns - 0.5)
    texture = leaf.contrast * textures[leaf.texture]
    return leaf.colour[None, None] + shading[..., None] + texture


def _centres(size: int) -> Array:
    """[size] of pixels, as shares of the side."""
    return (jnp.arange(size) + 0.5) / size
