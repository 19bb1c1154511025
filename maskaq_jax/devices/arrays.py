"""What functions demand of arrays: their axes and kinds when traced, and that they are finite."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

Kind = Literal["floating", "integer"]


def check_axes(name: str, array: ArrayLike, axes: str, kind: Kind | None = None) -> None:
    """Checks that an array has the axes that a function's docstring names.

        >>> check_axes("images", jnp.ones((28, 28, 3)), "batch height width channels")
        Traceback (most recent call last):
          ...
        ValueError: images must be [batch, height, width, channels], got shape (28, 28, 3)

    Args:
      name: of the argument.
      array: what was given.
      axes: a word for each axis; axes of the same word have the same length.
      kind: 'floating' or 'integer' numbers; None for any.

    Raises:
      ValueError: other axes, or numbers of another kind.
    """
    words, shape = axes.split(), jnp.shape(array)
    if len(words) != len(shape) or len(set(zip(words, shape, strict=True))) != len(set(words)):
        raise ValueError(f"{name} must be [{', '.join(words)}], got shape {shape}")
    if kind is not None:
        check_kind(name, array, kind)


def check_kind(name: str, array: ArrayLike, kind: Kind) -> None:
    """Raises ValueError for numbers of another kind."""
    dtype = jnp.result_type(array)
    if not jnp.issubdtype(dtype, getattr(jnp, kind)):
        raise ValueError(f"{name} must have {kind} dtype, got {dtype}")


def check_same_shape(**arrays: ArrayLike) -> None:
    """Raises ValueError, with all shapes, for arrays of different ones."""
    shapes = {name: jnp.shape(array) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"{' and '.join(shapes)} must have the same shape, got "
            f"{' and '.join(map(str, shapes.values()))}"
        )


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
