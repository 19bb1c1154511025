"""Still lifes: textured things that are lit from one side and throw shadows on a ground."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from maskaq_jax.images import geometry, noise, spectra
from maskaq_jax.images.geometry import between

# An image has some of these things, log-uniform in number.
_FEWEST, _MOST = 2, 24
_BIG_SHARE, _GLEAMING_SHARE, _BLURRED_SHARE = 0.3, 0.2, 0.4
# Exponents of the norms whose balls things are: diamonds, ellipses, and boxes with round corners.
_ROUNDNESS = (1.0, 2.0, 2.0, 4.0)
# Slope of the spectrum of a horizon, which makes it hilly.
_HILLS = 2.0


class _Thing(NamedTuple):
    """A thing.

    Attributes:
      centre: [2] of the image's sides.
      radius: [] of its first axis, as a share of the side.
      stretch: [] share of it that the second axis is.
      angle: [] of its first axis.
      exponent: [] of its norm.
      dents: [height, width] Gaussian, of its outline.
      dent_slope: [] of their spectrum.
      denting: [] how deep they are, in radii.
      edge: [] how wide it is blurred, in pixels.
      shadow_distance: [] as a share of the side.
      shadow_blur: [] the same.
      shadow_depth: [] 0 to 1, 0 for no shadow.
      texture: [] 0 to 1, which of them it has.
      roll: [2] of the texture, as shares of the sides.
      strength: [] of the texture; 0 for a plain colour.
      shading: [] how much darker its far side is.
      brightness: [] added to it.
      gleam: [] of the spot that faces the light; 0 for none.
    """

    centre: Array
    radius: Array
    stretch: Array
    angle: Array
    exponent: Array
    dents: Array
    dent_slope: Array
    denting: Array
    edge: Array
    shadow_distance: Array
    shadow_blur: Array
    shadow_depth: Array
    texture: Array
    roll: Array
    strength: Array
    shading: Array
    brightness: Array
    gleam: Array


class _Outline(NamedTuple):
    """Where a thing is.

    Attributes:
      along, across: [height, width] of each pixel, in the thing's own axes and half-widths.
      coverage: [height, width] share of each pixel that it covers.
    """

    along: Array
    across: Array
    coverage: Array


def draw(key: Array, textures: Array) -> Array:
    """[height, width, 3] of 0 to 1.

    Args:
      key: PRNG key.
      textures: [T, height, width, 3] of 0 to 1, that the ground and the things have.
    """
    ground_key, thing_key, whole_key = jax.random.split(key, 3)
    _, height, width, _ = textures.shape
    count, light, is_blurred, focus, film = jax.random.uniform(whole_key, (5,))
    things = _draw_things(thing_key, height, width)

    def put(number: Array, image: Array) -> Array:
        thing = jax.tree.map(lambda values: values[number], things)
        return _put(thing, image, textures, 2 * jnp.pi * light)

    image = jax.lax.fori_loop(
        *(0, jnp.int32(_FEWEST * ((_MOST + 1) / _FEWEST) ** count)),
        *(put, _draw_ground(ground_key, textures)),
    )
    # A lens that is out of focus at times, and a film that is darker or brighter.
    blurred = _blur(image, between(0.0027, 0.009, focus))
    image = jnp.where(is_blurred < _BLURRED_SHARE, blurred, image)
    return jnp.clip(image, 0, 1) ** between(0.7, 1.4, film)


def _draw_things(key: Array, height: int, width: int) -> _Thing:
    """As many as an image may have, on a leading axis."""
    share_key, dent_key = jax.random.split(key)
    # All at once: each draw takes long to compile.
    shares = iter(jax.random.uniform(share_key, (23, _MOST)))
    is_big = next(shares) < _BIG_SHARE
    has_shadow = next(shares) < 0.5
    gleams = next(shares) < _GLEAMING_SHARE
    place = jnp.stack([next(shares), next(shares)], axis=-1)
    exponents = jnp.asarray(_ROUNDNESS)
    return _Thing(
        # Big things are about the middle.
        centre=jnp.where(is_big[:, None], between(0.2, 0.8, place), place),
        radius=jnp.where(
            is_big, between(0.15, 0.45, next(shares)), between(0.03, 0.2, next(shares))
        ),
        stretch=0.15 ** next(shares),
        angle=jnp.pi * next(shares),
        exponent=exponents[jnp.int32(len(exponents) * next(shares))],
        dents=jax.random.normal(dent_key, (_MOST, height, width)),
        dent_slope=between(1.8, 2.8, next(shares)),
        denting=0.35 * next(shares),
        edge=between(0.5, 1.5, next(shares)),
        shadow_distance=between(0.009, 0.045, next(shares)),
        shadow_blur=between(0.009, 0.036, next(shares)),
        shadow_depth=has_shadow * between(0.2, 0.7, next(shares)),
        texture=next(shares),
        roll=jnp.stack([next(shares), next(shares)], axis=-1),
        strength=1.2 * next(shares),
        shading=0.6 * next(shares),
        brightness=between(-0.1, 0.1, next(shares)),
        gleam=gleams * between(0.2, 0.6, next(shares)),
    )


def _draw_ground(key: Array, textures: Array) -> Array:
    """A texture out of focus, and in half of the images another one below a horizon."""
    share_key, line_key = jax.random.split(key)
    count, height, width, _ = textures.shape
    far, near, focus, level, horizon = jax.random.uniform(share_key, (5,))
    blurred = _blur(textures[jnp.int32(count * far)], 0.027 * focus)
    hills = spectra.with_slope(jax.random.normal(line_key, (height, width, 1)), _HILLS)
    rows, _ = geometry.centres(height, width)
    line = between(0.3, 0.8, level) - 0.02 * hills
    below = (horizon < 0.5) * jnp.clip((rows[..., None] - line) * height / 2, 0, 1)
    return blurred + below * (textures[jnp.int32(count * near)] - blurred)


def _put(thing: _Thing, image: Array, textures: Array, light: Array) -> Array:
    """The image with one more thing and its shadow."""
    height, width, _ = image.shape
    outline = _outline(thing, height, width)
    coverage = outline.coverage[..., None]
    image = image * (1 - _shadow(thing, outline, light) * (1 - coverage))
    return image + coverage * (_surface(thing, outline, textures, light) - image)


def _outline(thing: _Thing, height: int, width: int) -> _Outline:
    """A ball of some norm, stretched, turned and dented."""
    rows, columns = geometry.centres(height, width)
    along, across = geometry.own_axes(
        rows, columns, thing.centre, thing.angle, thing.radius, thing.stretch
    )
    norm = jnp.abs(along) ** thing.exponent + jnp.abs(across) ** thing.exponent
    dents = spectra.with_slope(thing.dents[..., None], thing.dent_slope)[..., 0]
    inside = 1 - norm ** (1 / thing.exponent) - thing.denting * dents
    pixels = inside * thing.radius * thing.stretch * max(height, width)
    return _Outline(along, across, jnp.clip(0.5 + pixels / thing.edge, 0, 1))


def _shadow(thing: _Thing, outline: _Outline, light: Array) -> Array:
    """[height, width, 1] of 0 to 1: the thing away from the light, blurred."""
    coverage = outline.coverage[..., None]
    shift = (
        thing.shadow_distance * max(coverage.shape) * jnp.stack([jnp.sin(light), jnp.cos(light)])
    )
    moved = jax.image.scale_and_translate(
        coverage, coverage.shape, (0, 1), jnp.ones(2), shift, method="linear", antialias=False
    )
    return thing.shadow_depth * _blur(moved, thing.shadow_blur)


def _surface(thing: _Thing, outline: _Outline, textures: Array, light: Array) -> Array:
    """[height, width, 3] of 0 to 1: a texture, weaker or stronger, shaded; some things gleam."""
    count, *sides, _ = textures.shape
    texture = textures[jnp.int32(count * thing.texture)]
    texture = jnp.roll(texture, jnp.int32(thing.roll * jnp.asarray(sides)), axis=(0, 1))
    colour = texture.mean(axis=(0, 1), keepdims=True)
    turn = light - thing.angle
    # The light falls the way that shadows do.
    away = outline.along * jnp.cos(turn) + outline.across * jnp.sin(turn)
    shading = 1 - thing.shading * jnp.clip(away, -1, 1)
    surface = (colour + thing.strength * (texture - colour)) * shading[..., None]
    spot = jnp.square(outline.along + 0.42 * jnp.cos(turn))
    spot += jnp.square(outline.across + 0.42 * jnp.sin(turn))
    gleam = thing.gleam * jnp.exp(-spot / 0.03)
    return jnp.clip(surface + thing.brightness + gleam[..., None], 0, 1)


def _blur(image: Array, smoothness: ArrayLike) -> Array:
    return noise.blur(image[None], jnp.asarray(smoothness))[0]
