"""What an experiment is: its fields and defaults, and their validation.

The defaults are the paper's settings at 4 bits, but for what `docs/method.md` section 5 changes on
purpose. A config file starts from `default()`, a ConfigDict, and says what differs; `validated`
turns it into frozen dataclasses, and an unknown field, a wrong type or an impossible value into an
error that names it.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal

from ml_collections import ConfigDict

from maskaq_jax import data, hub, models, paths, schema
from maskaq_jax.finetune import Settings as FinetuningSettings
from maskaq_jax.models import Quantization
from maskaq_jax.pixels import Pixels
from maskaq_jax.preprocessing import Preprocessing
from maskaq_jax.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt
from maskaq_jax.schema import ConfigError
from maskaq_jax.synthesis import Settings as SynthesisSettings

# The loss terms of the methods that make their samples; 'noise' and 'real' are floor and ceiling.
METHOD_TERMS = {
    "maskaq": ("similarity", "classes", "total_variation", "coupling", "entropy"),
    "mimiq": ("similarity", "classes", "total_variation"),
    "psaq": ("classes", "density", "variation_gap"),
}
SYNTHESIS_METHODS = tuple(METHOD_TERMS)
Method = Literal["maskaq", "mimiq", "psaq", "noise", "real"]


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The full-precision model P that is quantized.

    Attributes:
      name: of `models.create_model`.
      num_classes: 0 for no classifier.
      arguments: of `models.create_model`.
      weights: a file of PyTorch weights, 'hf://organisation/name[@revision]' of the Hugging Face
        hub, or 'embedded:NAME' for one that ships with the package.
    """

    name: str = "deit_tiny_patch16_224"
    num_classes: NonNegativeInt = 1000
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: str = ""


@dataclasses.dataclass(frozen=True)
class Samples:
    """The images Q is trained on.

    Attributes:
      num_samples: how many.
      batch_size: images synthesised together.
      refresh_every: epochs between syntheses; 0 makes them once.
      calibration: 'synthetic' initialises Q's quantizers on the samples, 'noise' on Gaussian
        images, as the authors do.
      calibration_size: images the quantizers are initialised on.
    """

    num_samples: PositiveInt = 10_000
    batch_size: PositiveInt = 32
    refresh_every: NonNegativeInt = 30
    calibration: Literal["synthetic", "noise"] = "synthetic"
    calibration_size: PositiveInt = 64


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The labelled images accuracies are measured on.

    Attributes:
      dataset: 'fashion_mnist', the embedded one; 'folder', one of `path`; 'tfds:NAME', one of
        TensorFlow Datasets; empty for none.
      split: of the embedded one: 'test', or 'validation' to choose settings on; or TFDS's.
      path: the folder, which holds a folder for each class, or images; or where TFDS's datasets
        are, empty for its own place.
      labels: file of a line `NAME LABEL` for each image of `path`; empty for a folder a class.
      preprocessing: how images of a folder or of TFDS become the model's size.
      batch_size: images a step.
    """

    dataset: str = ""
    split: str = ""
    path: str = ""
    labels: str = ""
    preprocessing: Preprocessing = Preprocessing()
    batch_size: PositiveInt = 256


@dataclasses.dataclass(frozen=True)
class Config:
    """An experiment.

    Attributes:
      seed: of every random draw.
      method: where the samples come from: 'maskaq', 'mimiq', 'psaq', 'noise' or 'real'.
      checkpoint_seconds: least time between two saves within synthesis or fine-tuning.
    """

    seed: NonNegativeInt = 0
    method: Method = "maskaq"
    model: ModelSettings = ModelSettings()
    pixels: Pixels = Pixels()
    quantization: Quantization = Quantization(weight_bits=4, activation_bits=4)
    samples: Samples = Samples()
    synthesis: SynthesisSettings = SynthesisSettings()
    finetuning: FinetuningSettings = FinetuningSettings()
    evaluation: Evaluation = Evaluation()
    checkpoint_seconds: NonNegativeFloat = 60.0


def default() -> ConfigDict:
    """The paper's settings, to be changed by a config file."""
    return ConfigDict(dataclasses.asdict(Config()))


def validated(config: ConfigDict) -> Config:
    """Checks a config and freezes it.

    Raises:
      ConfigError: names the field, what it holds and what was expected.
    """
    result = from_dict(config.to_dict())
    check_values(result)
    return result


def from_dict(values: Mapping[str, Any]) -> Config:
    """Freezes nested plain values, such as a run's `config.json`; checks names and types."""
    return schema.build(Config, values, "config")


def create_model(config: Config, **arguments: Any) -> models.Model:
    """The low-bit model Q of a config, with other arguments of the model where given.

    Raises:
      ValueError: as of `models.create_model`.
    """
    model = config.model
    return models.create_model(
        model.name, model.num_classes, config.quantization, **(model.arguments | arguments)
    )


def check_field(path: str) -> None:
    """Raises `ConfigError` if there is no such field as `config.samples.num_samples`."""
    kind: Any = Config
    known = "config"
    for name in path.split(".")[1:]:
        if not dataclasses.is_dataclass(kind):
            return  # a field's own keys are for whoever reads it
        hints = typing.get_type_hints(kind)
        schema.check_known(f"field {known}.{name}", name, hints)
        kind, known = hints[name], f"{known}.{name}"


def as_dict(config: Config) -> dict[str, Any]:
    """JSON values of a config."""
    return dataclasses.asdict(config)


def check_values(config: Config) -> None:
    """Checks what types alone don't say: choices, and what belongs together.

    Raises:
      ConfigError: names the field, what it holds and what was expected.
    """
    _check_method(config)
    _check_optimizer(config.finetuning)
    network = _check_model(config)
    _check_pixels(config, network)
    _check_outputs(config)
    _check_evaluation(config, network)
    _check_weights(config.model.weights)


def _check_method(config: Config) -> None:
    weights = config.synthesis.weights
    used = [name for name, weight in dataclasses.asdict(weights).items() if weight]
    foreign = [name for name in used if name not in METHOD_TERMS.get(config.method, used)]
    if foreign:
        raise ConfigError(
            f"config.method is {config.method!r}, whose loss has no {' and no '.join(foreign)}: "
            "their config.synthesis.weights must be 0; choose the method by argument, "
            f"--config=FILE:method={config.method}"
        )
    if config.method in SYNTHESIS_METHODS and not any(dataclasses.astuple(weights)):
        raise ConfigError("config.synthesis.weights are all 0: nothing to optimise")


def _check_optimizer(finetuning: FinetuningSettings) -> None:
    if finetuning.step_learning_rate and finetuning.optimizer != "adam":
        raise ConfigError(
            "config.finetuning.step_learning_rate is a share of the step sizes with 'adam' only: "
            f"with {finetuning.optimizer!r} set it to 0, which trains them as zero points are"
        )


def _check_model(config: Config) -> models.Model:
    model = config.model
    schema.choose("config.model.name", model.name, models.model_names())
    try:
        network = create_model(config)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.model: {error}") from error
    dtype = model.arguments.get("dtype", "")
    if not isinstance(dtype, str):  # a run's settings are kept as JSON
        raise ConfigError(f"config.model.arguments.dtype must be a name, got {dtype!r}")
    channels = network.input_shape[-1]
    if channels not in (1, 3):
        raise ConfigError(f"config.model.arguments.in_chans must be 1 or 3, got {channels}")
    return network


def _check_pixels(config: Config, network: models.Model) -> None:
    """Views and normalisation fit the model's images."""
    side, _, channels = network.input_shape
    if config.finetuning.view.shift >= side:
        raise ConfigError(
            f"config.finetuning.view.shift must be smaller than the model's images of {side} "
            f"pixels, got {config.finetuning.view.shift}"
        )
    for name in ("mean", "std"):
        if len(getattr(config.pixels, name)) != channels:
            raise ConfigError(
                f"config.pixels.{name} must have a value for each of the model's {channels} "
                f"channels, got {len(getattr(config.pixels, name))}"
            )


def _check_outputs(config: Config) -> None:
    """A model without classifier has no classes to synthesise, to choose or to distil by."""
    if config.model.num_classes:
        return
    if config.synthesis.weights.classes:
        raise ConfigError(
            "config.model has no classifier (num_classes is 0), so config.synthesis.weights.classes"
            f" must be 0, got {config.synthesis.weights.classes}"
        )
    if config.finetuning.output_distance == "kl":
        raise ConfigError(
            "config.model has no classifier (num_classes is 0), so "
            "config.finetuning.output_distance must be 'cosine' or 'mse', got 'kl'"
        )
    if config.synthesis.background == "auto":
        raise ConfigError(
            "config.model has no classifier (num_classes is 0) to choose a colour by, so "
            "config.synthesis.background must be 'none', 'black' or 'white', got 'auto'"
        )


def _check_evaluation(config: Config, network: models.Model) -> None:
    evaluation = config.evaluation
    is_folder = evaluation.dataset == "folder"
    scheme = data.TFDS_SCHEME
    is_of_tfds = evaluation.dataset.startswith(scheme) and evaluation.dataset != scheme
    for field, is_read in (("path", is_folder or is_of_tfds), ("labels", is_folder)):
        if getattr(evaluation, field) and not is_read:
            raise ConfigError(
                f"config.evaluation.{field} is set, but config.evaluation.dataset "
                f"{evaluation.dataset!r} does not read it: set that to 'folder'"
            )
    if is_of_tfds:
        if not evaluation.split:
            raise ConfigError(
                "config.evaluation.split is missing: name a split of "
                f"{evaluation.dataset!r}, such as 'validation'"
            )
    else:
        options = (data.EMBEDDED, "folder", f"{scheme}NAME", "")
        schema.choose("config.evaluation.dataset", evaluation.dataset, options)
    if evaluation.dataset == data.EMBEDDED:
        schema.choose("config.evaluation.split", evaluation.split, data.EMBEDDED_SPLITS)
        if network.input_shape[:2] != data.EMBEDDED_SIZE or network.num_classes not in (0, 10):
            raise ConfigError(
                "config.evaluation.dataset 'fashion_mnist' has images of 28 x 28 pixels and 10 "
                f"classes; the model takes {network.input_shape[0]} x {network.input_shape[1]} and "
                f"has {network.num_classes}"
            )
    if config.method == "real" and network.input_shape[:2] != data.EMBEDDED_SIZE:
        raise ConfigError(
            "config.method 'real' trains on the embedded images of 28 x 28 pixels, but the model "
            f"takes {network.input_shape[0]} x {network.input_shape[1]}"
        )
    if is_folder:
        folder, labels = map(paths.expanded_path, (evaluation.path, evaluation.labels))
        if not folder.is_dir() or not evaluation.path:
            raise ConfigError(f"config.evaluation.path: no folder {evaluation.path!r}")
        if evaluation.labels and not labels.is_file():
            raise ConfigError(f"config.evaluation.labels: {paths.missing_file(labels)}")
    if evaluation.dataset not in ("", data.EMBEDDED) and network.input_shape[-1] != 3:
        raise ConfigError(
            f"config.evaluation.dataset {evaluation.dataset!r} has images of 3 channels; the model "
            f"takes {network.input_shape[-1]}"
        )


def _check_weights(weights: str) -> None:
    if not weights:
        raise ConfigError("config.model.weights is missing: name a file of trained weights")
    path = paths.weights_path(weights)
    if weights.startswith(hub.SCHEME):
        try:
            hub.parse_address(weights)
        except ValueError as error:
            raise ConfigError(f"config.model.weights: {error}") from error
    elif not path.is_file():
        raise ConfigError(f"config.model.weights: {paths.missing_file(path)}")
