"""Dead leaves: opaque shapes of random size, colour and texture that cover one another.

Half of the images are of specks, small round shapes of strong colours on a ground of coloured
noise; the others of shards, larger and longer ones about the middle, some of them striped or
chequered. Layers that are fitted to both kinds lose less on photographs than by either alone
(`docs/results/real.md`). They have the edges, the occlusions and the power spectrum of photographs,
without any (Ruderman 1997; Lee, Mumford and Huang 2001; as training images: Baradad et al. 2021).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from maskaq_jax.devices.keys import named_key
from maskaq_jax.images import geometry, spectra
from maskaq_jax.images.drawing import draw_each
from maskaq_jax.images.pixels import Pixels

# An image has some of these shapes, log-uniform in number.
_MAX_SHAPES = 96
_MIN_SHAPES = 8
# Half-planes that a polygon is cut out by.
_NUM_SIDES = 7
# Textures of an image, one of which fills a shape.
_NUM_TEXTURES = 4


class _Style(NamedTuple):
    """What the shapes of an image have in common.

    Attributes:
      smallest, largest: radii, as shares of the image's side.
      small_share: exponent k of the radii's law `p(r) ~ r^-(k + 1)`; more of small ones for a
        larger one.
      narrowest: least ratio of a shape's axes.
      middle: share by which shapes gather about the middle; 0 spreads them evenly.
      evenness: of the brightness: parameter of a symmetric beta distribution.
      tint: standard deviation of the colours of an image's shapes.
      colour_noise: of a texture, as a share of the noise that all channels have.
      steepness: added to the slope of the textures' spectra.
      contrast: largest of a texture.
      low_contrast: exponent that makes low contrasts more frequent.
      patterns: share of textures that are stripes or chequers.
    """

    smallest: float
    largest: float
    small_share: float
    narrowest: float
    middle: float
    evenness: float
    tint: float
    colour_noise: float
    steepness: float
    contrast: float
    low_contrast: float
    patterns: float


_SPECKS = _Style(0.03, 0.5, 2.0, 0.4, 0.0, 1.2, 0.15, 0.6, 0.0, 0.2, 1.0, 0.0)
_SHARDS = _Style(0.04, 0.7, 0.5, 0.07, 1.0, 1.6, 0.08, 0.2, 0.2, 0.25, 1.5, 0.4)


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

    Arguments and errors are those of `drawing.draw_each`.
    """

    def draw(own: Array) -> Array:
        return draw_image(own, shape, pixels.grey)

    return draw_each(draw, named_key(key, "leaves"), indices, shape, pixels)


def draw_image(key: Array, shape: tuple[int, ...], is_grey: bool) -> Array:
    """[*shape] of 0 to 1, one image.

    Args:
      key: of the image.
      shape: height, width and channels.
      is_grey: whether all channels are equal.
    """
    style_key, count_key, leaf_key, texture_key, ground_key = jax.random.split(key, 5)
    height, width, channels = shape
    colours = 1 if is_grey else channels
    has_shards = jax.random.bernoulli(style_key)
    style = jax.tree.map(lambda *pair: jnp.where(has_shards, *pair), _SHARDS, _SPECKS)
    textures = _draw_textures(texture_key, (height, width, colours), style)
    spread = jnp.log(_MAX_SHAPES / _MIN_SHAPES)
    count = _MIN_SHAPES * jnp.exp(spread * jax.random.uniform(count_key))
    leaves = jax.vmap(lambda own: _draw_leaf(own, colours, style))(
        jax.random.split(leaf_key, _MAX_SHAPES + 1)
    )
    # The large ones lie below, so that no leaf covers all others.
    order = jnp.argsort(-leaves.radius)
    leaves = jax.tree.map(lambda leaf: leaf[order], leaves)
    ground = _draw_leaf(ground_key, colours, style)
    rows, columns = geometry.centres(height, width)

    def paint(image: Array, numbered: tuple[Array, _Leaf]) -> tuple[Array, None]:
        number, leaf = numbered
        share = _coverage(leaf, rows, columns, max(height, width)) * (number < count)
        filled = _fill(leaf, rows, columns, textures)
        return image + share[..., None] * (filled - image), None

    image, _ = jax.lax.scan(
        paint, _fill(ground, rows, columns, textures), (jnp.arange(_MAX_SHAPES + 1), leaves)
    )
    return jnp.broadcast_to(image.clip(0, 1), shape)


def _draw_leaf(key: Array, channels: int, style: _Style) -> _Leaf:
    keys = iter(jax.random.split(key, 15))

    def uniform(low: ArrayLike, high: ArrayLike, *shape: int) -> Array:
        return jax.random.uniform(next(keys), shape, minval=low, maxval=high)

    low, high = style.smallest**-style.small_share, style.largest**-style.small_share
    radius = (low + (high - low) * uniform(0, 1)) ** (-1 / style.small_share)
    brightness = jax.random.beta(next(keys), style.evenness, style.evenness)
    tint = style.tint * jax.random.normal(next(keys), (channels,)) * jnp.exp(uniform(-1.2, 0.7))
    anywhere, about = uniform(0, 1, 2), 0.5 + 0.28 * jax.random.normal(next(keys), (2,))
    return _Leaf(
        centre=anywhere + style.middle * (about - anywhere),
        radius=radius,
        stretch=jnp.exp(uniform(jnp.log(style.narrowest), 0.0)),
        angle=uniform(0, jnp.pi),
        normals=uniform(0, 2 * jnp.pi, _NUM_SIDES),
        distances=uniform(0.4, 1.0, _NUM_SIDES),
        is_round=uniform(0, 1) < 0.33,
        colour=jnp.clip(brightness + tint, 0, 1),
        shading=0.5 * jax.random.normal(next(keys), (2,)),
        texture=jnp.int32(uniform(0, _NUM_TEXTURES)),
        contrast=style.contrast * uniform(0, 1) ** style.low_contrast,
    )


def _draw_textures(key: Array, shape: tuple[int, int, int], style: _Style) -> Array:
    """[textures, *shape] of mean 0 and deviation 1 or so: noise whose power falls with the
    frequency, or stripes or chequers over some of it.

    Channels share most of it: surfaces vary in brightness more than in colour.
    """
    height, width, _ = shape

    def draw(own: Array) -> Array:
        slope_key, common_key, channel_key, pattern_key, choice_key = jax.random.split(own, 5)
        slope = style.steepness + jax.random.uniform(slope_key, (), minval=0.8, maxval=1.6)
        noise = jax.random.normal(common_key, (height, width, 1)) + style.colour_noise * (
            jax.random.normal(channel_key, shape)
        )
        texture = spectra.with_slope(noise, slope)
        pattern = _draw_pattern(pattern_key, height, width)
        has_pattern = jax.random.uniform(choice_key) < style.patterns
        return jnp.where(has_pattern, 1.5 * pattern[..., None] + 0.3 * texture, texture)

    return jax.vmap(draw)(jax.random.split(key, _NUM_TEXTURES))


def _draw_pattern(key: Array, height: int, width: int) -> Array:
    """[height, width] of -1 to 1: stripes or chequers, four to 24 in the image."""
    angle_key, count_key, choice_key = jax.random.split(key, 3)
    angle = jnp.pi * jax.random.uniform(angle_key)
    count = 4 * jnp.exp(jnp.log(6) * jax.random.uniform(count_key))
    rows, columns = geometry.centres(height, width)
    along = jnp.sin(2 * jnp.pi * count * (columns * jnp.cos(angle) + rows * jnp.sin(angle)))
    across = jnp.sin(2 * jnp.pi * count * (rows * jnp.cos(angle) - columns * jnp.sin(angle)))
    return jnp.tanh(4 * jnp.where(jax.random.bernoulli(choice_key), along, along * across))


def _coverage(leaf: _Leaf, rows: Array, columns: Array, size: int) -> Array:
    """[height, width] share of each pixel that a leaf covers."""
    along, across = geometry.own_axes(
        rows, columns, leaf.centre, leaf.angle, leaf.radius, leaf.stretch
    )
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
