"""What configs share: the paper's settings for its backbones, the embedded experiment's budget, and
the choice of a method.
"""

from typing import Any

from ml_collections import ConfigDict

from maskaq_jax import config as config_lib
from maskaq_jax import data, schema

# What MaskAQ is without one of its parts: the fields that change.
ABLATIONS: dict[str, dict[str, Any]] = {
    "entropy": {"synthesis.weights.entropy": 0.0},
    "coupling": {"synthesis.weights.coupling": 0.0},
    "drop": {"synthesis.drop_rate": 0.0},
    "ratio": {"synthesis.initial_ratio": 0.3, "synthesis.final_ratio": 0.3},
    "masking": {"finetuning.important_weight": 1.0},
    "calibration": {"samples.calibration": "noise"},
    "refresh": {"samples.refresh_every": 0},
    # But for one step: what the first images are worth as they are.
    "synthesis": {"synthesis.num_steps": 1},
}
# Those that make their images once, and weigh all patches alike.
FORERUNNERS = ("mimiq", "psaq")


def imagenet_config(
    argument: str | None,
    model: str,
    weights: str,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ConfigDict:
    """The paper's settings for an ImageNet model, but for calibration on synthetic images.

    Args:
      argument: of the config: `w`, `a`, `method`, `seed`, and `val`: ImageNet's validation images,
        'tfds:imagenet2012' or a folder of `<wnid>/*.JPEG`; without it nothing is evaluated but the
        agreement of both models.
      model: a name of `create_model`.
      weights: where its weights are.
      mean: of the pixels of each channel, from 0 to 1, that the model was trained with; None for
        ImageNet's.
      std: their standard deviation.
    """
    arguments = schema.parse_arguments(argument, w=4, a=4, method="maskaq", seed=0, val="")
    config = config_lib.default()
    config.seed = arguments.seed
    config.model.name = model
    config.model.weights = weights
    # Fields, so that the command line can set them.
    config.model.arguments = ConfigDict({"img_size": 224, "dtype": "float32"})
    config.pixels.mean = mean or config.pixels.mean
    config.pixels.std = std or config.pixels.std
    config.quantization.weight_bits = arguments.w
    config.quantization.activation_bits = arguments.a
    if arguments.val.startswith(data.TFDS_SCHEME):
        config.evaluation.dataset = arguments.val
        config.evaluation.split = "validation"
    elif arguments.val:
        config.evaluation.dataset = "folder"
        config.evaluation.path = arguments.val
    set_method(config, arguments.method)
    return config


def fashion_config(argument: str | None) -> ConfigDict:
    """An experiment on Fashion-MNIST, complete except for the model.

    Args:
      argument: of the config, as `configs/vit_fashion.py` lists them.
    """
    arguments = schema.parse_arguments(
        argument,
        w=3,
        a=3,
        method="maskaq",
        source="",
        without="",
        preset="best",
        images="",
        background="",
        seed=0,
        split="test",
    )
    presets = ("best", "paper")
    preset = schema.choose("config argument preset", arguments.preset, presets)
    images = schema.choose("config argument images", arguments.images or preset, presets)
    config = config_lib.default()
    config.seed = arguments.seed
    config.model.num_classes = 10
    config.pixels.mean = (0.286,) * 3
    config.pixels.std = (0.353,) * 3
    config.pixels.grey = True
    config.quantization.weight_bits = arguments.w
    config.quantization.activation_bits = arguments.a
    config.evaluation.dataset = data.EMBEDDED
    config.evaluation.split = arguments.split

    config.samples.num_samples = 320
    config.samples.batch_size = 160
    config.samples.refresh_every = 30
    config.samples.calibration_size = 256
    config.synthesis.num_steps = 100
    config.finetuning.epochs = 60
    config.finetuning.batch_size = 32

    if images == "best":
        _use_best_images(config)
    if arguments.background:
        config.synthesis.background = arguments.background
    if preset == "best":
        _use_best_training(config)
    set_method(config, _choose_method(arguments))
    if arguments.without:
        if config.method != "maskaq":
            raise schema.ConfigError(
                "config argument without leaves out a part of MaskAQ, but the method is "
                f"{config.method!r}"
            )
        part = schema.choose("config argument without", arguments.without, ABLATIONS)
        config.update_from_flattened_dict(ABLATIONS[part])
    return config


def set_method(config: ConfigDict, method: str) -> None:
    """Chooses where samples come from: other methods lack what MaskAQ added.

    That is the refresh, the informative patches' weight in fine-tuning, and loss terms. PSAQ-ViT
    has terms of its own.
    """
    config.method = method
    if method not in FORERUNNERS:
        return
    weights = config.synthesis.weights
    for name in weights:
        if name not in config_lib.METHOD_TERMS[method]:
            weights[name] = 0.0
    if method == "psaq":
        weights.density, weights.variation_gap = 1.0, 0.05
    config.finetuning.important_weight = 1.0
    config.samples.refresh_every = 0


def _choose_method(arguments: Any) -> str:
    """`source`, another word for `method`, if it is given."""
    if not arguments.source:
        return arguments.method
    if arguments.method not in ("maskaq", arguments.source):
        raise schema.ConfigError(
            f"config arguments method={arguments.method} and source={arguments.source} say the "
            "same thing in two ways: give one of them"
        )
    return arguments.source


def _use_best_images(config: ConfigDict) -> None:
    """What makes better images than the paper's settings, by `docs/settings.md`."""
    config.synthesis.smoothness = 0.07
    config.synthesis.smoothness_spread = 1.2
    config.synthesis.contrast = 1.0
    # That there is one says something of the data; its colour doesn't.
    config.synthesis.background = "auto"
    config.synthesis.balanced_labels = True
    config.synthesis.weights.similarity = 0.1
    config.synthesis.weights.classes = 0.3
    config.synthesis.view.brightness = 0.0
    config.synthesis.view.colour = 0.0


def _use_best_training(config: ConfigDict) -> None:
    """What trains better on any images than the paper's settings, by `docs/settings.md`."""
    config.finetuning.optimizer = "adam"
    config.finetuning.learning_rate = 5e-4
    config.finetuning.quantizer_learning_rate = 4e-2
    config.finetuning.step_learning_rate = 0.05
    config.finetuning.averaged_share = 0.5
    config.finetuning.attention_weight = 0.1
    config.finetuning.block_weight = 1.0
    # Near the views the teacher was trained on: flips and shifts.
    config.finetuning.view.min_area = 1.0
    config.finetuning.view.shift = 2
    config.finetuning.view.jitter = 0.0
    config.finetuning.view.grey = 0.0
    config.finetuning.view.blur = 0.0
