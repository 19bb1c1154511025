"""What configs share. They all take these arguments, as in `--config=configs/deit_t.py:w=3,a=8`:

    w, a           bits of weights and activations: 2 to 8, or 32 for none
    method         where the samples come from: maskaq, mimiq, psaq, noise or real; `source` is
                   another word for it
    without        a part of MaskAQ left out: entropy, coupling, drop (of regions at random), ratio
                   (0.3 throughout instead of falling), masking (of distillation), calibration
                   (on noise instead of samples), refresh or synthesis (a single step)
    preset         best or paper, the settings of images and training
    images         best or paper, where those of the images are to differ
    background     black, white, auto (one of the two, as P chooses; best) or none (paper)
    seed           of every random draw
    real           a folder of images of one's own, for method=real; no labels are needed
    val            images to evaluate on, in place of the config's own: a folder for each class, or
                   `tfds:imagenet2012`
    split          of the embedded images: test, or validation to choose settings; or of TFDS's

Those of ImageNet models take weights of the Hugging Face hub (the `hub` extra);
`--config.model.weights=FILE` takes a file instead. With `preset=best`, the default, every layer is
fitted in closed form to 384 synthetic images, and classifiers are trained for 16 epochs on 512;
`preset=paper` has the paper's ten thousand images and 200 epochs, whose time `docs/scaling.md`
estimates. Accuracy on ImageNet is not measured yet; `docs/results/real.md` has that of another real
ViT, with its time.

A field's value is the last of what these say of it: the paper's settings, the preset, the config
file, the arguments, the command line. What depends on the method is settled at the very end, by
`maskaq_jax.config.validated`, so that `--config.method=mimiq` does what `method=mimiq` does; until
then such a field refers to the method, unless it is given a value of its own.
"""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FieldReference

from maskaq_jax import config as config_lib
from maskaq_jax import data, schema

# The data and the budget of the embedded experiment: minutes on two CPU cores.
FASHION: dict[str, Any] = {
    "model.num_classes": 10,
    "pixels.mean": (0.286,) * 3,
    "pixels.std": (0.353,) * 3,
    "pixels.grey": True,
    "evaluation.dataset": data.EMBEDDED,
    "evaluation.split": "test",
    "samples.num_samples": 320,
    "samples.batch_size": 160,
    "samples.refresh_every": 30,
    "samples.calibration_size": 256,
    "synthesis.num_steps": 100,
    "finetuning.epochs": 60,
    "finetuning.batch_size": 32,
}

# Garments of the same images, on canvases of 96 pixels most of which are black.
SCENES: dict[str, Any] = {
    "pixels.mean": (0.132,) * 3,
    "pixels.std": (0.273,) * 3,
    "pixels.grey": True,
    "evaluation.dataset": data.SCENES,
    "evaluation.split": "test",
}


def fashion_config(argument: str | None, fields: dict[str, Any]) -> ConfigDict:
    """An embedded experiment: what differs from `FASHION`, by dotted names of fields."""
    return experiment(argument, config_lib.EMBEDDED_PRESETS, FASHION | fields, w=3, a=3)


def scenes_config(argument: str | None, fields: dict[str, Any]) -> ConfigDict:
    """An embedded experiment on scenes: what differs from `SCENES`, by dotted names of fields."""
    return experiment(argument, config_lib.SCENES_PRESETS, SCENES | fields, w=4, a=4)


def imagenet_config(
    argument: str | None = None,
    *,
    model: str,
    weights: str,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    fields: dict[str, Any] | None = None,
) -> ConfigDict:
    """An experiment on an ImageNet model.

    Without `val` nothing is evaluated but the agreement of both models.

    Args:
      argument: of the config.
      model: a name of `create_model`.
      weights: where its weights are.
      mean: of the pixels of each channel, from 0 to 1, that the model was trained with; None for
        ImageNet's.
      std: their standard deviation.
      fields: what else differs, by dotted names of fields.
    """
    own: dict[str, Any] = {
        "model.name": model,
        "model.weights": weights,
        "model.arguments": {"img_size": 224, "dtype": "float32"},
    }
    if mean:
        own["pixels.mean"] = mean
    if std:
        own["pixels.std"] = std
    presets = config_lib.presets_of(model)
    return experiment(argument, presets, own | (fields or {}), w=4, a=4)


def experiment(
    argument: str | None,
    presets: Mapping[str, config_lib.Preset],
    fields: dict[str, Any],
    w: int,
    a: int,
) -> ConfigDict:
    """An experiment from arguments.

    Args:
      argument: of the config, as the top of this file lists them.
      presets: of the model's scale.
      fields: in which it differs from all others, by their dotted names.
      w: bits of weights, where the argument doesn't say.
      a: those of activations.

    Raises:
      ConfigError: an argument that there isn't, or an impossible value.
    """
    arguments = schema.parse_arguments(
        argument,
        **{"w": w, "a": a, "method": "maskaq", "source": "", "without": "", "preset": "best"},
        **{"images": "", "background": "", "seed": 0, "val": "", "split": "", "real": ""},
    )
    method = _choose_method(arguments)
    training = schema.choose("config argument preset", arguments.preset, presets)
    images = schema.choose("config argument images", arguments.images or training, presets)
    values = {
        **presets[images].images,
        **presets[training].training,
        **fields,
        "seed": arguments.seed,
        "method": method,
        "quantization.weight_bits": arguments.w,
        "quantization.activation_bits": arguments.a,
        **_evaluation_fields(arguments),
        **({"synthesis.background": arguments.background} if arguments.background else {}),
        **({"samples.real": arguments.real} if arguments.real else {}),
        **_fields_without(arguments.without, method),
    }
    # A field of its own for each argument of the model, so that the command line can set them.
    values["model.arguments"] = ConfigDict(values["model.arguments"])
    config = config_lib.default()
    config.update_from_flattened_dict(values)
    own = presets[images].own_images | presets[training].own_training
    for name, value in own.items():
        _follow_method(config, name, functools.partial(_if_real, value))
    for name in _fields_without(arguments.without, method):
        _follow_method(config, name, _if_maskaq)
    return config


def _choose_method(arguments: ConfigDict) -> str:
    """`source`, another word for `method`, if it is given."""
    if not arguments.source:
        return arguments.method
    if arguments.method not in ("maskaq", arguments.source):
        raise schema.ConfigError(
            f"config arguments method={arguments.method} and source={arguments.source} say the "
            "same thing in two ways: give one of them"
        )
    return arguments.source


def _evaluation_fields(arguments: ConfigDict) -> dict[str, str]:
    """What `val` and `split` say, if anything."""
    val, split = arguments.val, arguments.split
    if val.startswith(data.TFDS_SCHEME):
        return {"evaluation.dataset": val, "evaluation.split": split or "validation"}
    if val:
        return {
            "evaluation.dataset": data.FOLDER,
            "evaluation.path": val,
            "evaluation.split": split,
        }
    return {"evaluation.split": split} if split else {}


def _fields_without(part: str, method: str) -> dict[str, Any]:
    """What leaves out a part of MaskAQ."""
    if not part:
        return {}
    schema.choose("config argument without", part, config_lib.ABLATIONS)
    return {name: _if_maskaq(value, method) for name, value in config_lib.ABLATIONS[part].items()}


def _if_maskaq(value: Any, method: str) -> Any:
    """A value of `without`.

    Raises:
      ConfigError: it is another method.
    """
    if method != "maskaq":
        raise schema.ConfigError(
            f"config argument without leaves out a part of MaskAQ, but the method is {method!r}"
        )
    return value


def _if_real(own: Any, value: Any, method: str) -> Any:
    """A value of the methods that take images of one's own, in the place of that of the others."""
    is_real = method in config_lib.METHODS and config_lib.METHODS[method].is_real
    return own if is_real else value


class _Operation(NamedTuple):
    """What a `FieldReference` makes of its value and of the arguments, references among them."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]


def _follow_method(config: ConfigDict, name: str, settle: Callable[[Any, str], Any]) -> None:
    """Makes a field what it is by the method, whichever that will be, until it is set to a value.

    Args:
      config: that has the field.
      name: of the field, with its dots.
      settle: from the value that the field has now, and the method's name.
    """
    group, _, field = name.rpartition(".")
    fields = operator.attrgetter(group)(config)
    fields[field] = FieldReference(
        fields[field], op=_Operation(settle, (config.get_ref("method"),))
    )
