"""What lies beside weights and says what their shapes don't: `config.json` of transformers or timm,
`open_clip_config.json`, and what transformers writes of a processor.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from maskaq_jax.models import Model, create_model, model_names
from maskaq_jax.models.layers import ACTIVATIONS
from maskaq_jax.models.upernet import POOLING_SCALES
from maskaq_jax.models.vit import Pooling
from maskaq_jax.storage.notes import Tell
from maskaq_jax.torch_import import mechanisms

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
# Of a processor of text and images, and of OpenCLIP: read where the others aren't there.
PROCESSORS, OPEN_CLIP = "processor_config.json", "open_clip_config.json"
FILES = (CONFIG, PROCESSOR, PROCESSORS, OPEN_CLIP)

# transformers' names of fields and activations -> ours.
_FIELDS = {
    "num_attention_heads": "num_heads",
    "num_heads": "num_heads",
    "hidden_act": "act_layer",
    "layer_norm_eps": "layer_norm_eps",
    "qkv_bias": "qkv_bias",
}
_ACTIVATIONS = {
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python": "gelu",
    "swish": "silu",
}
# transformers' model types that are ours; of a pair of towers, the one for images counts.
_MODEL_TYPES = (
    *("vit", "deit", "swin", "dinov2", "dinov2_with_registers", "vit_mae", "vit_msn"),
    *("clip", "clip_vision_model", "siglip", "siglip_vision_model"),
    *("yolos", "upernet"),
)
# Of these types, what a part of a config leaves out where it is so.
_CLIP = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_attention_heads": 12}
_SIGLIP = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_attention_heads": 12}
_DEFAULTS = {"clip": _CLIP, "clip_vision_model": _CLIP}
_DEFAULTS |= {"siglip": _SIGLIP, "siglip_vision_model": _SIGLIP}
# What create_model takes, of arguments that others have more values of.
_VALUES: dict[str, tuple[str, ...]] = {
    "act_layer": tuple(ACTIVATIONS),
    "global_pool": get_args(Pooling),
}
# What models have where it is no argument of theirs: a Swin all of it.
_FIXED = {"act_layer": "gelu", "layer_norm_eps": 1e-5, "qkv_bias": True, "global_pool": "avg"}
# Epsilons that differ by less are the same to all activations but those that hardly vary.
_EPSILON_TOLERANCE = 2e-6
# ConvNeXt's processor crops below this side, and squashes from it on.
_LEAST_SQUASHED = 384
# Ways to resample, by Pillow's numbers.
_RESAMPLINGS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


class Companions(NamedTuple):
    """What is said beside weights.

    Attributes:
      model: arguments of a model by our names, and the file's own name of each.
      pictures: fields of `Pixels` (mean, std) and `Preprocessing` that their training took.
      files: those it was read from, by 'model' and 'pictures'.
      image_size: height and width of the images that position embeddings are of; None if nothing
        says so.
      unknown: timm's name of an architecture that is none here; empty if it is or nothing is said.
      uncompared: what is said of pictures that has no counterpart here, as `field=value`.
    """

    model: dict[str, tuple[Any, str]]
    pictures: dict[str, Any]
    files: dict[str, str]
    image_size: tuple[int, int] | None = None
    unknown: str = ""
    uncompared: tuple[str, ...] = ()


def read(weights: Path, tell: Tell) -> Companions:
    """Reads what lies beside a file of weights.

    Args:
      weights: a file.
      tell: is told of files that can't be read.

    Raises:
      ValueError: the weights are of a model of another mechanism.
    """
    found = {name: _read_json(weights.parent / name, tell) for name in FILES}
    config = found[CONFIG]
    model: dict[str, tuple[Any, str]] = {}
    pictures: dict[str, Any] = {}
    said: Mapping[str, Any] = {}
    files, unknown = {"model": CONFIG, "pictures": PROCESSOR}, ""
    if isinstance(config.get("architecture"), str):
        unknown = _unknown_name(config["architecture"], weights)
        model, said = _of_timm(config)
        files["pictures"] = CONFIG
    elif config:
        model = _of_transformers(config, weights)
    elif found[OPEN_CLIP]:
        model, said = _of_open_clip(found[OPEN_CLIP])
        files = {"model": OPEN_CLIP, "pictures": OPEN_CLIP}
    pictures, uncompared = _pictures_of_timm(said), _uncompared_of_timm(said)
    part = found[PROCESSORS].get("image_processor")
    for name, processor in ((PROCESSOR, found[PROCESSOR]), (PROCESSORS, part)):
        if isinstance(processor, Mapping) and processor:
            pictures, uncompared = _of_processor(processor), _uncompared_of(processor)
            files["pictures"] = name
            break
    size = _image_size(config.get("image_size")) or _size_of_timm(said)
    return Companions(model, pictures, files, size, unknown, tuple(uncompared))


def _unknown_name(architecture: str, weights: Path) -> str:
    """An architecture of timm's if it is none of ours, which may or may not be another mechanism.

    Raises:
      ValueError: it is one, though its weights have the names and shapes of ours.
    """
    name = architecture.partition(".")[0]
    if mechanisms.is_other(name):
        raise ValueError(
            f"{weights}: {CONFIG} says they are of the architecture {name!r}, which computes "
            "otherwise than the models here, though names and shapes of weights may fit"
        )
    return "" if name in model_names() else name


def check_model(companions: Companions, model: Model, source: str, tell: Tell) -> None:
    """Compares what is said with the model that the weights are for.

    Raises:
      ValueError: they differ; all differences are named.
    """
    if companions.unknown:
        tell(
            f"{source}: {companions.files['model']} says architecture {companions.unknown!r}, "
            "which is none of the models here: its weights' names and shapes are compared, what it "
            "computes is taken from the config"
        )
    problems = []
    for name, (said, field) in companions.model.items():
        has = getattr(model, name, _FIXED.get(name))
        if _is_same(name, said, has):
            if said != has and not isinstance(said, list | tuple):
                tell(
                    f"{source}: {companions.files['model']} says {field} is {said}, taken as {has}"
                )
            continue
        mend = "which this model can't have"
        if name in _VALUES and said not in _VALUES[name]:
            mend = f"which the models here don't have, of {', '.join(_VALUES[name])}"
        elif hasattr(model, name) or name not in _FIXED:
            mend = f"set config.model.arguments.{name}={said!r}"
        problems.append(f"{field} is {said!r} there, the model has {name}={has!r}: {mend}")
    if problems:
        raise ValueError(
            f"{source}: the {companions.files['model']} beside the weights says otherwise than "
            f"config.model: {'; '.join(problems)}"
        )


def _is_same(name: str, said: Any, has: Any) -> bool:
    if name == "layer_norm_eps":
        return abs(said - has) <= _EPSILON_TOLERANCE
    if isinstance(said, list | tuple) and isinstance(has, list | tuple):
        return list(said) == list(has)
    return bool(said == has)


def _of_transformers(config: Mapping[str, Any], weights: Path) -> dict[str, tuple[Any, str]]:
    kind = config.get("model_type")
    if isinstance(kind, str) and kind and kind not in _MODEL_TYPES:
        raise ValueError(
            f"{weights}: {CONFIG} says they are of a {kind!r}, which is another mechanism than "
            "those of the models here"
        )
    scales = config.get("pool_scales", list(POOLING_SCALES))
    if kind == "upernet" and scales != list(POOLING_SCALES):
        raise ValueError(
            f"{weights}: {CONFIG} says pool_scales={scales}, and the models here pool at "
            f"{POOLING_SCALES}"
        )
    for key in ("vision_config", "backbone_config"):
        if isinstance(config.get(key), Mapping):
            return _of_transformers(config[key], weights)
    if config.get("use_swiglu_ffn"):
        raise ValueError(
            f"{weights}: {CONFIG} says use_swiglu_ffn: MLPs of SwiGLU are another mechanism than "
            "those of the models here"
        )
    found: dict[str, tuple[Any, str]] = {}
    config = _DEFAULTS.get(str(kind), {}) | dict(config)
    for theirs, ours in _FIELDS.items():
        value = config.get(theirs)
        if ours == "act_layer" and isinstance(value, str):
            found[ours] = _ACTIVATIONS.get(value, value), theirs
        elif ours == "layer_norm_eps" and isinstance(value, int | float):
            found[ours] = float(value), theirs
        elif isinstance(value, {"num_heads": int | list, "qkv_bias": bool}.get(ours, ())):
            found[ours] = value, theirs
    return found


def _of_timm(config: Mapping[str, Any]) -> tuple[dict[str, tuple[Any, str]], Mapping[str, Any]]:
    """Timm's file names the architecture, whose arguments are known, and says what of pictures."""
    found: dict[str, tuple[Any, str]] = {}
    name = config["architecture"].partition(".")[0]
    if name in model_names():
        model = create_model(name)
        for argument in ("num_heads", "act_layer", "layer_norm_eps", "global_pool", "fc_norm"):
            if hasattr(model, argument):
                value = getattr(model, "has_fc_norm" if argument == "fc_norm" else argument)
                found[argument] = value, f"{argument} of the architecture {name!r}"
        found.pop("fc_norm", None)  # Names of weights show it.
    if isinstance(config.get("global_pool"), str) and config["global_pool"]:
        found["global_pool"] = config["global_pool"], "global_pool"
    arguments = config.get("model_args")
    for key, value in (arguments if isinstance(arguments, Mapping) else {}).items():
        if key in ("num_heads", "act_layer", "global_pool"):
            found[key] = value, f"model_args.{key}"
    pretrained = config.get("pretrained_cfg")
    # Older files have what is said of pictures beside the name.
    return found, {**config, **pretrained} if isinstance(pretrained, Mapping) else config


def _size_of_timm(said: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of `input_size`, which has channels first."""
    size = said.get("input_size")
    return _image_size(size[1:]) if isinstance(size, list) and len(size) == 3 else None


def _uncompared_of_timm(said: Mapping[str, Any]) -> list[str]:
    known = {"interpolation": (*_RESAMPLINGS.values(), ""), "crop_mode": ("center", "squash", "")}
    return [
        f"{name}={said[name]!r}"
        for name, values in known.items()
        if said.get(name) is not None and said[name] not in values
    ]


def _pictures_of_timm(said: Mapping[str, Any]) -> dict[str, Any]:
    pictures: dict[str, Any] = {}
    for key in ("mean", "std"):
        if _is_numbers(said.get(key)):
            pictures[key] = tuple(map(float, said[key]))
    if _is_number(said.get("crop_pct")):
        pictures["crop_ratio"] = float(said["crop_pct"])
    if said.get("interpolation") in _RESAMPLINGS.values():
        pictures["interpolation"] = said["interpolation"]
    if (mode := said.get("crop_mode")) in ("center", "squash"):
        pictures["resize"] = "shorter" if mode == "center" else "squash"
    return pictures


def _of_open_clip(
    config: Mapping[str, Any],
) -> tuple[dict[str, tuple[Any, str]], Mapping[str, Any]]:
    """OpenCLIP's file says heads and activation of its own ViTs and, as timm does, of pictures."""
    model, pictures = (config.get(key) for key in ("model_cfg", "preprocess_cfg"))
    model = model if isinstance(model, Mapping) else {}
    tower = model.get("vision_cfg")
    found: dict[str, tuple[Any, str]] = {}
    if isinstance(tower, Mapping) and "timm_model_name" not in tower:
        found["act_layer"] = "quick_gelu" if model.get("quick_gelu") else "gelu", "quick_gelu"
        width, of_head = tower.get("width"), tower.get("head_width", 64)
        if _side(width) and _side(of_head):
            found["num_heads"] = width // of_head, "width / head_width"
    said = dict(pictures) if isinstance(pictures, Mapping) else {}
    modes = {"shortest": "center", "squash": "squash"}
    mode = said.get("resize_mode")
    return found, said | {"crop_mode": modes.get(str(mode), mode)}


def _of_processor(processor: Mapping[str, Any]) -> dict[str, Any]:
    """What a processor of transformers does to a picture, in our words."""
    pictures: dict[str, Any] = {}
    # Of a pixel of 255, before it is normalised.
    white = 255.0
    if processor.get("do_rescale") is not False:
        factor: Any = processor.get("rescale_factor")
        white = 255.0 * factor if _is_number(factor) and factor > 0 else 1.0
    for key, theirs, none in (("mean", "image_mean", 0.0), ("std", "image_std", 1.0)):
        value: Any = none if processor.get("do_normalize") is False else processor.get(theirs)
        value = [value] if _is_number(value) else value
        if _is_numbers(value) and len(value) == 1:
            value = [*value] * 3
        if _is_numbers(value):
            pictures[key] = tuple(float(one) / white for one in value)
    if processor.get("do_resize") is False:
        return pictures
    if resampling := _resampling(processor):
        pictures["interpolation"] = resampling
    side, is_square = _resized_side(processor)
    if side is None:
        return pictures
    if _is_fitted(processor):
        # Of detectors: as large as both bounds allow, and the rest is padded.
        pictures |= {"resize": "fit", "shortest_edge": side, "crop_ratio": 1.0}
        if "Yolos" in _kind(processor):
            pictures["multiple"] = 16
        return pictures
    pictures["resize"] = "squash" if is_square else "shorter"
    share: Any = processor.get("crop_pct")
    if _is_number(share) and not is_square and side < _LEAST_SQUASHED:
        # ConvNeXt's: resized by the share, and the middle taken.
        return pictures | {"crop_ratio": float(share)}
    crop = _side(processor.get("crop_size")) if processor.get("do_center_crop") else None
    pictures["crop_ratio"] = min(1.0, crop / side) if crop else 1.0
    return pictures


def _uncompared_of(processor: Mapping[str, Any]) -> list[str]:
    """What a processor of transformers says that has no counterpart in `Preprocessing`."""
    if processor.get("do_resize") is False:
        return ["do_resize=False"]
    found = []
    if processor.get("resample") is not None and not _resampling(processor):
        found.append(f"resample={processor['resample']!r}")
    if processor.get("size") is not None and _resized_side(processor)[0] is None:
        found.append(f"size={processor['size']!r}")
    return found


def _resampling(processor: Mapping[str, Any]) -> str | None:
    """Its name, of Pillow's number or of itself."""
    said = processor.get("resample")
    if isinstance(said, int):
        return _RESAMPLINGS.get(said)
    return said if said in _RESAMPLINGS.values() else None


def _resized_side(processor: Mapping[str, Any]) -> tuple[int | None, bool]:
    """The side that a processor resizes to, and whether it makes a square."""
    size = processor.get("size")
    if isinstance(size, Mapping) and isinstance(size.get("shortest_edge"), int):
        return size["shortest_edge"], False
    if isinstance(size, Mapping):
        return _side(size), True
    keeps_shape = any(name in _kind(processor) for name in ("CLIP", "Bit", "ConvNext", "Levit"))
    return _side(size), not keeps_shape


def _is_fitted(processor: Mapping[str, Any]) -> bool:
    """Whether a picture's longer side is bounded, too; older files call the bound `max_size`."""
    size = processor.get("size")
    bound = size.get("longest_edge") if isinstance(size, Mapping) else processor.get("max_size")
    return isinstance(bound, int)


def _kind(processor: Mapping[str, Any]) -> str:
    """The name of the processor's class."""
    kind = processor.get("image_processor_type") or processor.get("feature_extractor_type")
    return str(kind or "")


def _image_size(size: Any) -> tuple[int, int] | None:
    """Height and width, from both or from a side; None if they are no such sizes."""
    if isinstance(size, Mapping):
        size = [size.get("height"), size.get("width")]
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        return None
    return sides[0], sides[1]


def _side(size: Any) -> int | None:
    """Of a square; None of all else."""
    sides = _image_size(size)
    return sides[0] if sides is not None and sides[0] == sides[1] else None


def _read_json(path: Path, tell: Tell) -> dict[str, Any]:
    """An object of JSON; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        tell(f"{path} is not readable, and not looked at: {error}")
        return {}
    return content if isinstance(content, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(_is_number, value))
