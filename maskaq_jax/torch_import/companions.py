"""What lies beside weights and says what their shapes don't: `config.json` of transformers or timm,
and `preprocessor_config.json` of transformers' processors.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from maskaq_jax.models import Model, create_model, model_names
from maskaq_jax.models.upernet import POOLING_SCALES
from maskaq_jax.storage.notes import Tell

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"

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
# What models have where it is no argument of theirs: a Swin all of it.
_FIXED = {"act_layer": "gelu", "layer_norm_eps": 1e-5, "qkv_bias": True, "global_pool": "avg"}
# Epsilons that differ by less are the same to all activations but those that hardly vary.
_EPSILON_TOLERANCE = 2e-6
# Of a bare square, in pixels, and of a resampling, by Pillow's numbers.
_RESAMPLINGS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


class Companions(NamedTuple):
    """What is said beside weights.

    Attributes:
      model: arguments of a model by our names, and the file's own name of each.
      pictures: fields of `Pixels` (mean, std) and `Preprocessing` that their training took.
      files: those it was read from, by 'model' and 'pictures'.
      image_size: height and width of the images that position embeddings are of; None if nothing
        says so.
    """

    model: dict[str, tuple[Any, str]]
    pictures: dict[str, Any]
    files: dict[str, str]
    image_size: tuple[int, int] | None = None


def read(weights: Path, tell: Tell) -> Companions:
    """Reads what lies beside a file of weights.

    Args:
      weights: a file.
      tell: is told of files that can't be read.

    Raises:
      ValueError: the weights are of a model of another mechanism.
    """
    config = _read_json(weights.parent / CONFIG, tell)
    processor = _read_json(weights.parent / PROCESSOR, tell)
    model: dict[str, tuple[Any, str]] = {}
    pictures: dict[str, Any] = {}
    files = {"model": CONFIG, "pictures": PROCESSOR}
    if isinstance(config.get("architecture"), str):
        model, pictures = _of_timm(config)
        files["pictures"] = CONFIG
    else:
        model = _of_transformers(config, weights)
    if processor:
        pictures = _of_processor(processor)
        files["pictures"] = PROCESSOR
    return Companions(model, pictures, files, _image_size(config.get("image_size")))


def check_model(companions: Companions, model: Model, source: str, tell: Tell) -> None:
    """Compares what is said with the model that the weights are for.

    Raises:
      ValueError: they differ; all differences are named.
    """
    problems = []
    for name, (said, field) in companions.model.items():
        has = getattr(model, name, _FIXED.get(name))
        if _is_same(name, said, has):
            if said != has and not isinstance(said, list | tuple):
                tell(f"{source}: {companions.files['model']} says {field}={said}, taken as {has}")
            continue
        mend = "which this model can't have"
        if hasattr(model, name) or name not in _FIXED:
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
    if kind == "upernet" and list(config.get("pool_scales", POOLING_SCALES)) != [*POOLING_SCALES]:
        raise ValueError(
            f"{weights}: {CONFIG} says pool_scales={config['pool_scales']}, and the models here "
            f"pool at {POOLING_SCALES}"
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
    for theirs, ours in _FIELDS.items():
        value = config.get(theirs)
        if ours == "act_layer" and isinstance(value, str):
            found[ours] = _ACTIVATIONS.get(value, value), theirs
        elif ours == "layer_norm_eps" and isinstance(value, int | float):
            found[ours] = float(value), theirs
        elif isinstance(value, {"num_heads": int | list, "qkv_bias": bool}.get(ours, ())):
            found[ours] = value, theirs
    return found


def _of_timm(config: Mapping[str, Any]) -> tuple[dict[str, tuple[Any, str]], dict[str, Any]]:
    """Timm's file names the architecture, whose arguments are known, and how pictures are made."""
    found: dict[str, tuple[Any, str]] = {}
    name = config["architecture"].partition(".")[0]
    if name in model_names():
        model = create_model(name)
        for argument in ("num_heads", "act_layer", "layer_norm_eps", "global_pool", "fc_norm"):
            if hasattr(model, argument):
                value = getattr(model, "has_fc_norm" if argument == "fc_norm" else argument)
                found[argument] = value, f"architecture {name!r}"
        found.pop("fc_norm", None)  # Names of weights show it.
    if isinstance(config.get("global_pool"), str) and config["global_pool"]:
        found["global_pool"] = config["global_pool"], "global_pool"
    arguments = config.get("model_args")
    for key, value in (arguments if isinstance(arguments, Mapping) else {}).items():
        if key in ("num_heads", "act_layer", "global_pool"):
            found[key] = value, f"model_args.{key}"
    pretrained = config.get("pretrained_cfg")
    said = pretrained if isinstance(pretrained, Mapping) else {}
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
    return found, pictures


def _of_processor(processor: Mapping[str, Any]) -> dict[str, Any]:
    """What a processor of transformers does to a picture, in our words."""
    pictures: dict[str, Any] = {}
    if processor.get("do_normalize") is False:
        pictures |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    else:
        for key, theirs in (("mean", "image_mean"), ("std", "image_std")):
            if _is_numbers(processor.get(theirs)):
                pictures[key] = tuple(map(float, processor[theirs]))
    if processor.get("do_resize") is False:
        return pictures
    if processor.get("resample") in _RESAMPLINGS:
        pictures["interpolation"] = _RESAMPLINGS[processor["resample"]]
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
    crop = _side(processor.get("crop_size")) if processor.get("do_center_crop") else None
    pictures["crop_ratio"] = min(1.0, crop / side) if crop else 1.0
    return pictures


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
    """Height and width, from both or from a side."""
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(_side(side) for side in sides):
        return None
    return sides[0], sides[1]


def _side(size: Any) -> int | None:
    if isinstance(size, Mapping):
        size = size.get("height") if size.get("height") == size.get("width") else None
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None


def _read_json(path: Path, tell: Tell) -> dict[str, Any]:
    """An object of JSON; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        tell(f"{path} is not readable, and not looked at: {error}")
        return {}
    return content if isinstance(content, dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(map(_is_number, value))
