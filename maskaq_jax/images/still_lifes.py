"""Still lifes: textured things that are lit from one side and throw shadows on a ground."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from maskaq_jax.images import noise, spectra

# An image has some of these things, log-uniform in number.
_FEWEST, _MOST = 2, 24
_BIG_SHARE = 0.3
# Exponents of the norms whose balls things are: diamonds, ellipses, and boxes with round corners.
_ROUNDNESS = (1.0, 2.0, 2.0, 4.0)
# Slopes of the spectrum of what dents things.
_DENTS = (1.8, 2.8)
_HORIZON = 2.0


class _Thing(NamedTuple):
    """What is drawn of a thing, each uniform between 0 and 1 but for the dents.

    Attributes:
      bigness, big_radius, small_radius: which size it has, and how large it is.
      place: [2].
      angle, stretch, roundness: of its axes and its norm.
      dents: [height, width] Gaussian.
      denting, dent_slope: how much, and how smooth.
      edge: its sharpness.
      has_shadow, shadow_distance, shadow_blur, shadow_depth: of its shadow.
      texture: which one.
      roll: [2] of the texture.
      strength, shading, brightness: of its surface.
      gleams, gleam: whether, and how much.
    """

    bigness: Array
    big_radius: Array
    small_radius: Array
    place: Array
    angle: Array
    stretch: Array
    roundness: Array
    dents: Array
    denting: Array
    dent_slope: Array
    edge: Array
    has_shadow: Array
    shadow_distance: Array
    shadow_blur: Array
    shadow_depth: Array
    texture: Array
    roll: Array
    strength: Array
    shading: Array
    brightness: Array
    gleams: Array
    gleam: Array


class _Outline(NamedTuple):
    """Where a thing is.

    Attributes:
      along, across: [height, width] of each pixel, in the thing's own axes and half-widths.
      coverage: [height, width] share of each pixel that it covers.
      angle: [] of its first axis.
    """

    along: Array
    across: Array
    coverage: Array
    angle: Array


def draw(key: Array, textures: Array) -> Array:
    """[height, width, 3] of 0 to 1.

    Args:
      key: PRNG key.
      textures: [T, height, width, 3] of 0 to 1, that the ground and the things have.
    """
    ground_key, thing_key, whole_key = jax.random.split(key, 3)
    _, height, width, _ = textures.shape
    number, light, *lens = jax.random.uniform(whole_key, (5,))
    things = _draw_things(thing_key, height, width)

    def put(number: Array, image: Array) -> Array:
        thing = jax.tree.map(lambda values: values[number], things)
        return _put(thing, image, textures, 2 * jnp.pi * light)

    count = jnp.int32(_FEWEST * ((_MOST + 1) / _FEWEST) ** number)
    image = jax.lax.fori_loop(0, count, put, _draw_ground(ground_key, textures))
    return _take(image, *lens)


def _draw_things(key: Array, height: int, width: int) -> _Thing:
    """As many as an image may have, on a leading axis."""
    share_key, dent_key = jax.random.split(key)
    # All at once: each draw takes long to compile.
    shares = iter(jax.random.uniform(share_key, (len(_Thing._fields) + 1, _MOST)))
    drawn = {
        name: jnp.stack([next(shares), next(shares)], axis=-1)
        if name in ("place", "roll")
        else next(shares)
        for name in _Thing._fields
        if name != "dents"
    }
    return _Thing(dents=jax.random.normal(dent_key, (_MOST, height, width)), **drawn)


def _draw_ground(key: Array, textures: Array) -> Array:
    """A texture out of focus, and in half of the images another one below a horizon."""
    share_key, line_key = jax.random.split(key)
    number, _, width, _ = textures.shape
    height = textures.shape[1]
    far, near, focus, level, has_horizon = jax.random.uniform(share_key, (5,))
    blurred = _blur(textures[jnp.int32(number * far)], 0.027 * focus)
    wave = spectra.colour_noise(jax.random.normal(line_key, (height, width, 1)), _HORIZON)
    line = _between(0.3, 0.8, level) - 0.02 * wave
    below = jnp.clip((_centres(height)[:, None, None] - line) * height / 2, 0, 1)
    below = below * (has_horizon < 0.5)
    return blurred + below * (textures[jnp.int32(number * near)] - blurred)


def _put(thing: _Thing, image: Array, textures: Array, light: Array) -> Array:
    """The image with one more thing and its shadow."""
    height, width, _ = image.shape
    outline = _outline(thing, height, width)
    coverage = outline.coverage[..., None]
    image = image * (1 - _shadow(thing, outline, light) * (1 - coverage))
    return image + coverage * (_surface(thing, outline, textures, light) - image)


def _outline(thing: _Thing, height: int, width: int) -> _Outline:
    """A ball of some norm, stretched, turned and dented; a big one is about the middle."""
    is_big = thing.bigness < _BIG_SHARE
    radius = jnp.where(
        is_big, _between(0.15, 0.45, thing.big_radius), _between(0.03, 0.2, thing.small_radius)
    )
    centre = jnp.where(is_big, _between(0.2, 0.8, thing.place), thing.place)
    angle = jnp.pi * thing.angle
    stretch = 0.15**thing.stretch
    exponent = jnp.asarray(_ROUNDNESS)[jnp.int32(len(_ROUNDNESS) * thing.roundness)]
    rows, columns = jnp.meshgrid(_centres(height), _centres(width), indexing="ij")
    down, right = rows - centre[0], columns - centre[1]
    along = (right * jnp.cos(angle) + down * jnp.sin(angle)) / radius
    across = (down * jnp.cos(angle) - right * jnp.sin(angle)) / (radius * stretch)
    norm = (jnp.abs(along) ** exponent + jnp.abs(across) ** exponent) ** (1 / exponent)
    dents = spectra.colour_noise(thing.dents[..., None], _between(*_DENTS, thing.dent_slope))
    inside = 1 - norm - 0.35 * thing.denting * dents[..., 0]
    pixels = inside * radius * stretch * max(height, width)
    coverage = jnp.clip(0.5 + pixels / _between(0.5, 1.5, thing.edge), 0, 1)
    return _Outline(along, across, coverage, angle)


def _shadow(thing: _Thing, outline: _Outline, light: Array) -> Array:
    """[height, width, 1] of 0 to 0.7: the thing away from the light, blurred; half have one."""
    distance = _between(0.009, 0.045, thing.shadow_distance) * max(outline.coverage.shape)
    shift = jnp.round(distance * jnp.stack([jnp.sin(light), jnp.cos(light)])).astype(jnp.int32)
    moved = jnp.roll(outline.coverage, shift, axis=(0, 1))
    blurred = _blur(moved[..., None], _between(0.009, 0.036, thing.shadow_blur))
    return blurred * _between(0.2, 0.7, thing.shadow_depth) * (thing.has_shadow < 0.5)


def _surface(thing: _Thing, outline: _Outline, textures: Array, light: Array) -> Array:
    """[height, width, 3] of 0 to 1: a texture, weaker or stronger, shaded; some things gleam."""
    number, *sides, _ = textures.shape
    texture = textures[jnp.int32(number * thing.texture)]
    texture = jnp.roll(texture, jnp.int32(thing.roll * jnp.asarray(sides)), axis=(0, 1))
    colour = texture.mean(axis=(0, 1), keepdims=True)
    turn = light - outline.angle
    slope = outline.along * jnp.cos(turn) + outline.across * jnp.sin(turn)
    shading = 0.6 * thing.shading * jnp.clip(-slope, -1, 1)
    surface = (colour + 1.2 * thing.strength * (texture - colour)) * (1 + shading[..., None])
    spot = jnp.exp(-(jnp.square(outline.along + 0.3) + jnp.square(outline.across + 0.3)) / 0.03)
    gleam = _between(0.2, 0.6, thing.gleam) * (thing.gleams < 0.2) * spot
    return jnp.clip(surface + _between(-0.1, 0.1, thing.brightness) + gleam[..., None], 0, 1)


def _take(image: Array, is_sharp: Array, focus: Array, film: Array) -> Array:
    """The picture that a lens and a film make of it: some are out of focus, darker or brighter."""
    blurred = _blur(image, _between(0.0027, 0.009, focus))
    image = jnp.where(is_sharp < 0.4, blurred, image)
    return jnp.clip(image, 0, 1) ** _between(0.7, 1.4, film)


def _between(low: float, high: float, share: Array) -> Array:
    return low + (high - low) * share


def _blur(image: Array, smoothness: ArrayLike) -> Array:
    return noise.blur(image[None], jnp.asarray(smoothness))[0]


def _centres(size: int) -> Array:
    """[size] of pixels, as shares of the side."""
    return (jnp.arange(size) + 0.5) / size
