"""Images of a convolutional generator that was never trained: its weights are drawn for each image.

Its filters are waves of random direction, and noise is added at every size, so that images have
texture at all of them, and long-range structure (after the untrained StyleGANs of Baradad et al.
2021, "Learning to See by Looking at Noise").
"""

import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.images import tones

_FIRST_SIDE = 4
_CHANNELS = 24
# What is drawn of each side that is asked for: the border, whose pixels see the zeros around, is
# cut off.
_MARGIN = 9 / 8
# Convolutions of each size.
_DEPTH = 2
# Radians from one tap of a filter to the next.
_FREQUENCY = 1.2
# Weight of random taps beside a filter's wave.
_ROUGHNESS = 0.3
# Deviation of the logarithm of what a channel is scaled by, and of what is added to it.
_GAIN_SPREAD, _BIAS_SPREAD = 0.8, 0.5
_LEAK = 0.2
# Mean and deviation of the logarithm of the noise that is added to a channel.
_NOISE, _NOISE_SPREAD = -2.35, 0.95
# The same of the share that the colours of a size have in the image.
_SHARE, _SHARE_SPREAD = -0.5, 0.6


def draw(key: Array, height: int, width: int) -> Array:
    """[height, width, 3] of 0 to 1.

    Args:
      key: PRNG key.
      height: in pixels.
      width: in pixels.
    """
    network_key, tone_key, corner_key = jax.random.split(key, 3)
    sides = _sides(math.ceil(_MARGIN * max(height, width)))
    # All at once: each draw takes long to compile.
    shapes = list(_shapes(sides))
    *ends, size = itertools.accumulate(math.prod(shape) for shape in shapes)
    drawn = jnp.split(jax.random.normal(network_key, (size,)), ends)
    normals = (values.reshape(shape) for values, shape in zip(drawn, shapes, strict=True))
    features = next(normals)
    image = jnp.zeros((sides[0], sides[0], 3))
    for side in sides[1:]:
        features = _resize(features, side)
        for _ in range(_DEPTH):
            features = _layer(features, normals)
        share = jnp.exp(_SHARE + _SHARE_SPREAD * next(normals))
        colours = next(normals) / _CHANNELS**0.5
        image = _resize(image, side) + share * (features @ colours)
    limits = jnp.asarray([sides[-1] - height, sides[-1] - width])
    row, column = jax.random.randint(corner_key, (2,), 0, limits + 1)
    image = jax.lax.dynamic_slice(image, (row, column, 0), (height, width, 3))
    return tones.give_tones(tone_key, image)


def _sides(last: int) -> list[int]:
    """Sizes from about `_FIRST_SIDE` on, each twice the one before or a pixel less."""
    sides = [last]
    while len(sides) == 1 or sides[0] > _FIRST_SIDE:
        sides.insert(0, -(-sides[0] // 2))
    return sides


def _shapes(sides: list[int]) -> Iterator[tuple[int, ...]]:
    """Of what is drawn, in the order that it is taken in."""
    yield sides[0], sides[0], _CHANNELS
    for side in sides[1:]:
        for _ in range(_DEPTH):
            # Of `_layer`: gains; the filters' angles, phases, mixture and random taps; how strong
            # the noise is, the noise, and biases.
            yield 1, 1, _CHANNELS
            yield 1, 1, 1, _CHANNELS
            yield 1, 1, 1, _CHANNELS
            yield 1, 1, _CHANNELS, _CHANNELS
            yield 3, 3, _CHANNELS, _CHANNELS
            yield 1, 1, _CHANNELS
            yield side, side, 1
            yield 1, 1, _CHANNELS
        # The share of the size's colours, and these of each channel.
        yield 1, 1, 1
        yield _CHANNELS, 3


def _layer(features: Array, normals: Iterator[Array]) -> Array:
    """A convolution, its output at unit power, with noise and a bias, and a leaky rectifier."""
    gains = jnp.exp(_GAIN_SPREAD * next(normals))
    convolved = jax.lax.conv_general_dilated(
        *((features * gains)[None], _filters(normals), (1, 1), "SAME"),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]
    convolved /= jnp.sqrt(jnp.square(convolved).mean(axis=(0, 1), keepdims=True)) + 1e-6
    convolved += jnp.exp(_NOISE + _NOISE_SPREAD * next(normals)) * next(normals)
    convolved += _BIAS_SPREAD * next(normals)
    return jnp.where(convolved > 0, convolved, _LEAK * convolved)


def _filters(normals: Iterator[Array]) -> Array:
    """[3, 3, in, out]: each output's wave, mixed over the inputs."""
    # A normal angle of so many turns may point anywhere.
    angles, phases = jnp.pi * next(normals), jnp.pi * next(normals)
    taps = jnp.arange(3) - 1.0
    rows, columns = (grid[..., None, None] for grid in jnp.meshgrid(taps, taps, indexing="ij"))
    waves = jnp.cos(_FREQUENCY * (rows * jnp.sin(angles) + columns * jnp.cos(angles)) + phases)
    return waves * next(normals) + _ROUGHNESS * next(normals)


def _resize(image: Array, side: int) -> Array:
    return jax.image.resize(image, (side, side, image.shape[-1]), "bilinear")
