"""Model names and what they stand for."""

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, get_args

import jax.numpy as jnp

from maskaq_jax.models import sites
from maskaq_jax.models.layers import ACTIVATIONS, Quantization
from maskaq_jax.models.linear_segmenter import LinearSegmenter
from maskaq_jax.models.protocol import Model, Task
from maskaq_jax.models.swin import SwinTransformer
from maskaq_jax.models.swin_fpn import SwinFpn
from maskaq_jax.models.upernet import UperNet
from maskaq_jax.models.vit import Pooling, VisionTransformer
from maskaq_jax.models.yolos import Yolos

# Raises ValueError for a value that an argument of that name can't have.
Rule = Callable[[str, Any], None]

# More than any model has, of blocks and of all else: a slip is refused before it takes all memory.
_MOST_BLOCKS, _LARGEST_SIZE = 1000, 65536
_DTYPES = ("float32", "bfloat16", jnp.float32, jnp.bfloat16)


def _check_integer(name: str, value: Any, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if not 1 <= value <= largest:
        raise ValueError(f"{name} must be 1 to {largest}, got {value}")


def _size(name: str, value: Any) -> None:
    _check_integer(name, value, _LARGEST_SIZE)


def _side_or_sides(name: str, value: Any) -> None:
    if not isinstance(value, (tuple, list)):
        _size(name, value)
        return
    if len(value) != 2:
        raise ValueError(f"{name} must be a side or a height and a width, got {value!r}")
    for one in value:
        _size(f"each of {name}", one)


def _blocks(name: str, value: Any) -> None:
    _check_integer(name, value, _MOST_BLOCKS)


def _each_stage(rule: Rule) -> Rule:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, (tuple, list)):
            raise ValueError(f"{name} must be a list with a value for each stage, got {value!r}")
        for one in value:
            rule(f"each of {name}", one)

    return check


def _number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def _number_or_none(name: str, value: Any) -> None:
    if value is not None:
        _number(name, value)


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def _flag_or_none(name: str, value: Any) -> None:
    if value is not None:
        _flag(name, value)


def _count(name: str, value: Any) -> None:
    if value != 0 or isinstance(value, bool):
        _size(name, value)


def _positive(name: str, value: Any) -> None:
    _number(name, value)
    if not 0 < value < 1:
        raise ValueError(f"{name} must be above 0 and below 1, got {value}")


def _one_of(*options: str) -> Rule:
    def check(name: str, value: Any) -> None:
        if value not in options:
            raise ValueError(f"{name} must be one of {', '.join(options)}, got {value!r}")

    return check


def _dtype(name: str, value: Any) -> None:
    if value not in _DTYPES:
        raise ValueError(f"{name} must be 'float32' or 'bfloat16', got {value!r}")


class Family(NamedTuple):
    """Models of one definition.

    Attributes:
      module: its class.
      arguments: what each argument of timm's may be, and dtype.
      models: names, and the arguments that timm's models of that name have.
    """

    module: type[Any]
    arguments: Mapping[str, Rule]
    models: Mapping[str, Mapping[str, Any]]

    @property
    def task(self) -> Task:
        """What the outputs of its models are for."""
        task: Task = self.module.task
        return task


_TINY = {"embed_dim": 192, "depth": 12, "num_heads": 3}
_SMALL = {"embed_dim": 384, "depth": 12, "num_heads": 6}
_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
_DISTILLED = {"distilled": True}
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
_PATCH8, _PATCH14, _PATCH32 = ({"patch_size": size} for size in (8, 14, 32))
_DEIT3 = {"no_embed_class": True, "init_values": 1e-6}
_DINOV2 = {"img_size": 518, "patch_size": 14, "init_values": 1e-5}
_REGISTERS = {"reg_tokens": 4, "no_embed_class": True}
_CLIP = {"pre_norm": True, "layer_norm_eps": 1e-5}
_OPENAI = _CLIP | {"act_layer": "quick_gelu"}
_SIGLIP = {"class_token": False, "global_pool": "map"}

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
    "vit_large_patch14_dinov2": _LARGE | _DINOV2,
    "vit_small_patch14_reg4_dinov2": _SMALL | _DINOV2 | _REGISTERS,
    "vit_base_patch14_reg4_dinov2": _BASE | _DINOV2 | _REGISTERS,
    "vit_large_patch14_reg4_dinov2": _LARGE | _DINOV2 | _REGISTERS,
    "vit_small_patch8_224": _SMALL | _PATCH8,
    "vit_base_patch8_224": _BASE | _PATCH8,
    "vit_small_patch32_224": _SMALL | _PATCH32,
    "vit_base_patch32_224": _BASE | _PATCH32,
    "vit_large_patch16_224": _LARGE,
    "deit3_small_patch16_224": _SMALL | _DEIT3,
    "deit3_base_patch16_224": _BASE | _DEIT3,
    "deit3_large_patch16_224": _LARGE | _DEIT3,
    "vit_base_patch16_clip_224": _BASE | _CLIP,
    "vit_base_patch32_clip_224": _BASE | _PATCH32 | _CLIP,
    "vit_large_patch14_clip_224": _LARGE | _PATCH14 | _CLIP,
    "vit_base_patch16_clip_quickgelu_224": _BASE | _OPENAI,
    "vit_base_patch32_clip_quickgelu_224": _BASE | _PATCH32 | _OPENAI,
    "vit_large_patch14_clip_quickgelu_224": _LARGE | _PATCH14 | _OPENAI,
    "vit_base_patch16_siglip_224": _BASE | _SIGLIP,
}
_LINEAR_SEGS: dict[str, dict[str, Any]] = {
    "vit_linear_seg": {},
    "vit_small_patch14_dinov2_linear_seg": _SMALL | _DINOV2,
    "vit_base_patch14_dinov2_linear_seg": _BASE | _DINOV2,
}
# As the authors' files are.
_YOLOS: dict[str, dict[str, Any]] = {
    "yolos": {},
    "yolos_tiny": _TINY | {"img_size": (800, 1333), "mid_position_embeddings": False},
    "yolos_small": _SMALL | {"img_size": (512, 864)},
    "yolos_base": _BASE | {"img_size": (800, 1344)},
}
_SWINS: dict[str, dict[str, Any]] = {
    "swin": {},
    "swin_tiny_patch4_window7_224": _SWIN_TINY,
    "swin_small_patch4_window7_224": _SWIN_SMALL,
    "swin_base_patch4_window7_224": _SWIN_BASE,
}
_UPERNETS: dict[str, dict[str, Any]] = {
    "upernet_swin": {},
    "upernet_swin_tiny": _SWIN_TINY,
    "upernet_swin_small": _SWIN_SMALL,
    "upernet_swin_base": _SWIN_BASE | {"window_size": 12},
}
_CANVAS = {"img_size": (800, 1344)}
_FPNS: dict[str, dict[str, Any]] = {
    "swin_fpn": {},
    "swin_fpn_tiny": _SWIN_TINY | _CANVAS,
    "swin_fpn_small": _SWIN_SMALL | _CANVAS,
    "swin_fpn_base": _SWIN_BASE | _CANVAS,
}
# Classes of the models that don't have 1000: those of COCO's numbers, and of ADE20K.
_CLASSES = {
    **dict.fromkeys(_YOLOS, 91),
    **dict.fromkeys((*_LINEAR_SEGS, *_UPERNETS), 150),
    **dict.fromkeys(_FPNS, 0),
    "vit_small_patch8_224": 0,
    "vit_base_patch16_siglip_224": 0,
    "vit_base_patch16_clip_quickgelu_224": 512,
    "vit_base_patch32_clip_quickgelu_224": 512,
    "vit_large_patch14_clip_quickgelu_224": 768,
}

_COMMON: dict[str, Rule] = {
    "img_size": _size,
    "patch_size": _size,
    "in_chans": _size,
    "embed_dim": _size,
    "mlp_ratio": _number,
    "dtype": _dtype,
}
_OF_SWIN: dict[str, Rule] = {
    "depths": _each_stage(_blocks),
    "num_heads": _each_stage(_size),
    "window_size": _size,
}
_ANY_CANVAS: dict[str, Rule] = {"img_size": _side_or_sides}
FAMILIES = (
    Family(
        VisionTransformer,
        _COMMON
        | {
            "depth": _blocks,
            "num_heads": _size,
            "init_values": _number_or_none,
            "distilled": _flag,
            "global_pool": _one_of(*get_args(Pooling)),
            "fc_norm": _flag_or_none,
            "class_token": _flag,
            "reg_tokens": _count,
            "no_embed_class": _flag,
            "qkv_bias": _flag,
            "qk_norm": _flag,
            "pre_norm": _flag,
            "act_layer": _one_of(*ACTIVATIONS),
            "layer_norm_eps": _positive,
        },
        _VITS,
    ),
    Family(SwinTransformer, _COMMON | _OF_SWIN, _SWINS),
    Family(
        Yolos,
        _COMMON
        | _ANY_CANVAS
        | {
            "depth": _blocks,
            "num_heads": _size,
            "num_detection_tokens": _size,
            "mid_position_embeddings": _flag,
            "layer_norm_eps": _positive,
        },
        _YOLOS,
    ),
    Family(UperNet, _COMMON | _ANY_CANVAS | _OF_SWIN | {"hidden_size": _size}, _UPERNETS),
    Family(
        LinearSegmenter,
        _COMMON
        | {
            "depth": _blocks,
            "num_heads": _size,
            "init_values": _number_or_none,
            "reg_tokens": _count,
            "no_embed_class": _flag,
            "layer_norm_eps": _positive,
        },
        _LINEAR_SEGS,
    ),
    Family(SwinFpn, _COMMON | _ANY_CANVAS | _OF_SWIN | {"out_channels": _size}, _FPNS),
)


def model_names() -> list[str]:
    """Every name `create_model` knows.

    >>> "deit_tiny_patch16_224" in model_names()
    True
    """
    return sorted(name for family in FAMILIES for name in family.models)


def family_of(name: str) -> Family:
    """The family with a model of that name, which there is."""
    return next(family for family in FAMILIES if name in family.models)


def family_name(family: Family) -> str:
    """The name that stands for a family, with its defaults."""
    return next(name for name, own in family.models.items() if not own)


def create_model(
    name: str,
    num_classes: int | None = None,
    quantization: Quantization | None = None,
    **overrides: Any,
) -> Model:
    """Builds a model: full precision without `quantization`, else low-bit on the same `params`.

        >>> model = create_model("deit_tiny_patch16_224", 10, Quantization(4, 8), img_size=112)
        >>> print(model.input_shape, model.num_classes)
        (112, 112, 3) 10

    Args:
      name: a timm model name; a dense model's, as 'yolos_tiny', 'upernet_swin_small',
        'vit_base_patch14_dinov2_linear_seg' or 'swin_fpn_base'; or a family: 'vit',
        'deit_distilled', 'swin', 'yolos', 'upernet_swin', 'vit_linear_seg', 'swin_fpn'.
      num_classes: 0 for no classifier; by default what the model of that name has.
      quantization: bit widths of the low-bit model; that of the model names layers where its rules
        have patterns.
      **overrides: timm's arguments: img_size, patch_size, in_chans, embed_dim, depth or depths,
        num_heads, mlp_ratio, init_values (LayerScale), global_pool, fc_norm, class_token,
        reg_tokens, no_embed_class, qkv_bias, qk_norm, pre_norm, act_layer (a name) or window_size;
        transformers' layer_norm_eps, num_detection_tokens and hidden_size; mmdetection's
        out_channels; mid_position_embeddings; and dtype. Dense models but the ViT's take a height
        and a width as img_size.

    Raises:
      ValueError: unknown name or argument, a value of another kind, sizes that are too small or
        large or don't divide; a rule that matches no layer, or two that contradict each other.
    """
    _check_known(name, model_names(), f"unknown model {name!r}")
    family = family_of(name)
    for argument, value in overrides.items():
        _check_known(argument, family.arguments, f"unknown argument {argument!r} of {name}")
        family.arguments[argument](argument, value)
    if num_classes is None:
        num_classes = 0 if name.endswith("_dinov2") else _CLASSES.get(name, 1000)
    elif num_classes != 0:
        _size("num_classes", num_classes)
    arguments = {**family.models[name], **overrides}
    model = family.module(num_classes=num_classes, quantization=quantization, **arguments)
    hidden = model.embed_dim * model.mlp_ratio
    if not 1 <= hidden <= _LARGEST_SIZE:
        raise ValueError(
            f"embed_dim={model.embed_dim} and mlp_ratio={model.mlp_ratio} make an MLP of "
            f"{hidden:g} features, which must be 1 to {_LARGEST_SIZE}"
        )
    if quantization is None or not quantization.rules:
        return model
    return model.clone(quantization=quantization.settled(layer_names(model)))


def layer_names(model: Model) -> tuple[str, ...]:
    """Dotted names of the layers that rules may give bits, as `blocks_0.mlp.fc2`.

    >>> print(*layer_names(create_model("deit_tiny_patch16_224"))[:3])
    patch_embed.proj blocks_0.attn.qkv blocks_0.attn.query
    """
    return sites.layer_names(full_precision(model).parts(), model.head_sites())


def description(model: Model) -> dict[str, Any]:
    """What `create_model` takes to build a model's architecture again, as JSON has it.

    Returns:
      `name` of its family, `num_classes`, and `arguments`, all of them.
    """
    family = next(family for family in FAMILIES if isinstance(model, family.module))
    arguments = {name: getattr(model, name) for name in family.arguments}
    arguments["dtype"] = jnp.dtype(arguments["dtype"]).name
    return {"name": family_name(family), "num_classes": model.num_classes, "arguments": arguments}


def full_precision(model: Model) -> Model:
    """P of a low-bit model Q: the same architecture on the same `params`, nothing quantized.

    >>> print(full_precision(create_model("swin", 10, Quantization(4, 8))).quantization)
    None
    """
    return model.clone(quantization=None)


def _check_known(name: str, known: Collection[str], complaint: str) -> None:
    """Raises ValueError with the nearest of the known names, unless the name is one of them."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        raise ValueError(f"{complaint}; did you mean {near!r}?")
