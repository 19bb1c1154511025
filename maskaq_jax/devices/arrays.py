"""What functions demand of arrays: their axes and kinds when traced, and that they are finite.

`chex` asserts, and what is raised names the argument, what was expected and what came.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

Kind = Literal["floating", "integer", "uint8", "bool"]


def check_axes(
    name: str, array: ArrayLike, axes: str, kind: Kind | None = None, **lengths: int
) -> None:
    """Checks that an array has the axes that a function's docstring names.

        >>> check_axes("images", jnp.ones((28, 28, 3)), "batch height width channels")
        Traceback (most recent call last):
          ...
        ValueError: images must be [batch, height, width, channels], got shape (28, 28, 3)
        >>> check_axes("boxes", jnp.ones((5, 3)), "... sides", sides=4)
        Traceback (most recent call last):
          ...
        ValueError: boxes must be [..., sides=4], got shape (5, 3)

    Args:
      name: of the argument.
      array: what was given.
      axes: a word for each axis, none for a scalar; axes of the same word have the same length. A
        leading '...' is for any others.
      kind: 'floating', 'integer', 'uint8' or 'bool'; None for any.
      **lengths: by the word, where an axis must have a certain one.

    Raises:
      ValueError: other axes, or numbers of another kind.
    """
    words, shape = axes.split(), jnp.shape(array)
    # From the end: '...' stands for any number of axes.
    known = dict(zip(reversed(words), reversed(shape), strict=False)) | lengths
    expected = tuple(... if word == "..." else known.get(word) for word in words)
    told = ", ".join(f"{word}={lengths[word]}" if word in lengths else word for word in words)
    with _refusing(f"{name} must be {f'[{told}]' if words else 'a scalar'}, got shape {shape}"):
        chex.assert_shape(array, expected)
    if kind is not None:
        check_kind(name, array, kind)


def check_kind(name: str, array: ArrayLike, kind: Kind) -> None:
    """Raises ValueError for numbers of another kind."""
    with _refusing(f"{name} must have {kind} dtype, got {jnp.result_type(array)}"):
        chex.assert_type(array, getattr(jnp, kind))


def check_shape(name: str, array: ArrayLike, expected: tuple[int, ...]) -> None:
    """Raises ValueError for an array of another shape."""
    with _refusing(f"{name} must have shape {expected}, got {jnp.shape(array)}"):
        chex.assert_shape(array, expected)


def check_same_shape(**arrays: ArrayLike) -> None:
    """Raises ValueError, with all shapes, for arrays of different ones."""
    shapes = [jnp.shape(array) for array in arrays.values()]
    message = (
        f"{' and '.join(arrays)} must have the same shape, got {' and '.join(map(str, shapes))}"
    )
    with _refusing(message):
        chex.assert_shape([*arrays.values()], shapes[0])


def check_count(name: str, array: Array, num_images: int) -> None:
    """Raises ValueError for an array that has not an entry for each image."""
    found = len(array) if array.ndim else "a scalar"
    with _refusing(f"{name} must be one an image, got {found} for {num_images} images"):
        chex.assert_shape(array, (num_images, ...))


def check_fraction(name: str, value: ArrayLike) -> None:
    """Raises ValueError for what is no fraction, 0 to 1.

    Of an array only the shape is looked at: its value may not be known yet.
    """
    check_axes(name, value, "")
    if isinstance(value, int | float | np.floating) and not 0 <= value <= 1:
        raise ValueError(f"{name} must be 0 to 1, got {value}")


def check_layers(axes: str, **layers: Any) -> None:
    """Checks the floating arrays of a model's layers, and that those of two models fit each other.

    Args:
      axes: of a layer, as `check_axes` takes them.
      **layers: by the argument's name, an array with an axis of layers, or a sequence of arrays.

    Raises:
      ValueError: a layer has other axes, there is none, or arguments differ in number or shapes.
    """
    shapes = {}
    for name, each in layers.items():
        if isinstance(each, Sequence):
            for number, layer in enumerate(each):
                check_axes(f"{name}[{number}]", layer, axes, "floating")
            shapes[name] = [jnp.shape(layer) for layer in each]
        else:
            check_axes(name, each, f"layers {axes}", "floating")
            shapes[name] = [each.shape[1:]] * len(each)
        if not shapes[name]:
            raise ValueError(f"{name} must have at least one layer, got none")
    first, *others = shapes.items()
    for other in others:
        if first[1] != other[1]:
            raise ValueError(
                f"{first[0]} and {other[0]} must have layers of the same shapes, got {first[1]} "
                f"and {other[1]}"
            )


@jax.jit
def is_finite(tree: Any) -> Array:
    """[] bool, whether every number of a tree is finite."""
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return jnp.stack(leaves).all()


@contextlib.contextmanager
def _refusing(message: str) -> Iterator[None]:
    """Says in a message of ours what an assertion refuses: chex's own names no argument."""
    try:
        yield
    except AssertionError:
        raise ValueError(message) from None
