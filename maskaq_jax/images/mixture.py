"""Drawn images of four kinds: dead leaves, still lifes, marble, and random networks' images.

A model meets photographs of all kinds. Layers that are fitted to images of several kinds lose less
on them than by any of these alone (`docs/results/real.md`).
"""

import jax
import jax.numpy as jnp
from jax import Array

from maskaq_jax.devices.keys import named_key
from maskaq_jax.images import dead_leaves, marble, random_networks, still_lifes
from maskaq_jax.images.drawing import draw_each
from maskaq_jax.images.pixels import Pixels, as_grey

# Pairs of textures that an image of each kind is made of: leaves have their own, a still life has
# two of both kinds, and marble or a network's image is one of a pair.
_PAIRS = {"leaves": 0, "still life": 2, "marble": 1, "network": 1}


def draw_mixture(key: Array, indices: Array, shape: tuple[int, ...], pixels: Pixels) -> Array:
    """[B, *shape] images in normalised pixel space; equal channels if `pixels.grey`.

    Arguments and errors are those of `drawing.draw_each`.
    """

    def draw(own: Array) -> Array:
        return _draw_image(own, shape, pixels.grey)

    return draw_each(draw, named_key(key, "mixture"), indices, shape, pixels)


def _draw_image(key: Array, shape: tuple[int, ...], is_grey: bool) -> Array:
    """[*shape] of 0 to 1."""
    height, width, channels = shape
    kind_key, texture_key, own_key = jax.random.split(key, 3)
    kind = jax.random.randint(kind_key, (), 0, len(_PAIRS))
    num_pairs = jnp.asarray(list(_PAIRS.values()))[kind]
    textures = _draw_textures(texture_key, height, width, num_pairs)
    drawers = {
        "leaves": lambda: dead_leaves.draw_image(own_key, (height, width, 3), is_grey),
        "still life": lambda: still_lifes.draw(own_key, textures),
        "marble": lambda: textures[0],
        "network": lambda: textures[1],
    }
    image = jax.lax.switch(kind, [drawers[name] for name in _PAIRS])
    return jnp.broadcast_to(as_grey(image) if is_grey or channels != 3 else image, shape)


def _draw_textures(key: Array, height: int, width: int, num_pairs: Array) -> Array:
    """[4, height, width, 3] of 0 to 1, black behind as many pairs as are asked for.

    All images have theirs from here, since each place that draws any takes long to compile.
    """

    def draw_pair(number: Array, textures: Array) -> Array:
        marble_key, network_key = jax.random.split(jax.random.fold_in(key, number))
        pair = jnp.stack(
            [
                marble.draw(marble_key, height, width),
                random_networks.draw(network_key, height, width),
            ]
        )
        return jax.lax.dynamic_update_slice_in_dim(textures, pair, 2 * number, axis=0)

    none = jnp.zeros((2 * max(_PAIRS.values()), height, width, 3))
    return jax.lax.fori_loop(0, num_pairs, draw_pair, none)
