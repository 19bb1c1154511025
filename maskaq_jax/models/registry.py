"""Model names and what they stand for."""

import difflib
import math
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp

from maskaq_jax.models.layers import Quantization
from maskaq_jax.models.swin import SwinTransformer
from maskaq_jax.models.vit import VisionTransformer

Model = VisionTransformer | SwinTransformer

_TINY = {"embed_dim": 192, "depth": 12, "num_heads": 3}
_SMALL = {"embed_dim": 384, "depth": 12, "num_heads": 6}
_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
_DISTILLED = {"distilled": True}
_DINOV2 = {"img_size": 518, "patch_size": 14, "init_values": 1e-5}

_SWIN_TINY = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
_SWIN_SMALL = _SWIN_TINY | {"depths": (2, 2, 18, 2)}
_SWIN_BASE = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}

# Families take every argument; timm's names come with theirs.
_VITS: dict[str, dict[str, Any]] = {
    "vit": {},
    "deit_distilled": _DISTILLED,
    "vit_tiny_patch16_224": _TINY,
    "vit_small_patch16_224": _SMALL,
    "vit_base_patch16_224": _BASE,
    "deit_tiny_patch16_224": _TINY,
    "deit_small_patch16_224": _SMALL,
    "deit_base_patch16_224": _BASE,
    "deit_tiny_distilled_patch16_224": _TINY | _DISTILLED,
    "deit_small_distilled_patch16_224": _SMALL | _DISTILLED,
    "deit_base_distilled_patch16_224": _BASE | _DISTILLED,
    "vit_small_patch14_dinov2": _SMALL | _DINOV2,
    "vit_base_patch14_dinov2": _BASE | _DINOV2,
}
_SWINS: dict[str, dict[str, Any]] = {
    "swin": {},
    "swin_tiny_patch4_window7_224": _SWIN_TINY,
    "swin_small_patch4_window7_224": _SWIN_SMALL,
    "swin_base_patch4_window7_224": _SWIN_BASE,
}

# More than any model has, of blocks and of all else: a slip is refused before it takes all memory.
_MOST_BLOCKS, _LARGEST_SIZE = 1000, 65536
_DTYPES = ("float32", "bfloat16", jnp.float32, jnp.bfloat16)


def model_names() -> list[str]:
    """Every name `create_model` knows."""
    return sorted([*_VITS, *_SWINS])


def create_model(
    name: str,
    num_classes: int | None = None,
    quantization: Quantization | None = None,
    **overrides: Any,
) -> Model:
    """Builds a model: full precision without `quantization`, else low-bit on the same `params`.

    Args:
      name: a timm model name, or a family: 'vit', 'deit_distilled', 'swin'.
      num_classes: 0 for no classifier; by default what timm's model has, 1000 or none.
      quantization: bit widths of the low-bit model.
      **overrides: timm's arguments: img_size, patch_size, in_chans, embed_dim, depth or depths,
        num_heads, mlp_ratio, init_values (LayerScale) or window_size; and dtype.

    Raises:
      ValueError: unknown name or argument, a value of another kind, sizes that are too small or
        large or don't divide.
    """
    _check_known(name, model_names(), f"unknown model {name!r}")
    family = SwinTransformer if name in _SWINS else VisionTransformer
    known = family.__dataclass_fields__.keys() - {"parent", "name"}
    for argument in overrides:
        _check_known(argument, known, f"unknown argument {argument!r} of {name}")
    arguments = (_VITS | _SWINS)[name] | overrides
    for argument, value in arguments.items():
        _check_argument(argument, value, family.__dataclass_fields__[argument].default)
    if num_classes is None:
        num_classes = 0 if name.endswith("_dinov2") else 1000
    elif num_classes != 0:
        _check_size("num_classes", num_classes, _LARGEST_SIZE)
    model = family(num_classes=num_classes, quantization=quantization, **arguments)
    hidden = model.embed_dim * model.mlp_ratio
    if not 1 <= hidden <= _LARGEST_SIZE:
        raise ValueError(
            f"embed_dim={model.embed_dim} and mlp_ratio={model.mlp_ratio} make an MLP of "
            f"{hidden:g} features, which must be 1 to {_LARGEST_SIZE}"
        )
    return model


def full_precision(model: Model) -> Model:
    """P of a low-bit model Q: the same architecture on the same `params`, nothing quantized."""
    return model.clone(quantization=None)


def _check_known(name: str, known: Collection[str], complaint: str) -> None:
    """Raises ValueError with the nearest of the known names, unless the name is one of them."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        raise ValueError(f"{complaint}; did you mean {near!r}?")


def _check_argument(argument: str, value: Any, default: Any) -> None:
    """Raises ValueError for a value of another kind than the default, or a size no model has."""
    largest = _MOST_BLOCKS if argument in ("depth", "depths") else _LARGEST_SIZE
    if argument == "dtype":
        if value not in _DTYPES:
            raise ValueError(f"dtype must be 'float32' or 'bfloat16', got {value!r}")
    elif isinstance(default, tuple):
        if not isinstance(value, (tuple, list)):
            raise ValueError(
                f"{argument} must be a list with a value for each stage, got {value!r}"
            )
        for size in value:
            _check_size(f"each of {argument}", size, largest)
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{argument} must be True or False, got {value!r}")
    elif isinstance(default, int):
        _check_size(argument, value, largest)
    elif value is not None or default is not None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{argument} must be a number, got {value!r}")
        if not math.isfinite(value):
            raise ValueError(f"{argument} must be finite, got {value}")


def _check_size(what: str, value: Any, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{what} must be an integer, got {value!r}")
    if not 1 <= value <= largest:
        raise ValueError(f"{what} must be 1 to {largest}, got {value}")
