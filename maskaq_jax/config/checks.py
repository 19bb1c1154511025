"""What types alone don't say of a config: choices, and what belongs together."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from maskaq_jax import models, schema
from maskaq_jax.config.datasets import evaluation_source, real_images
from maskaq_jax.config.fields import Config, Samples, create_model, from_dict
from maskaq_jax.config.methods import METHODS
from maskaq_jax.config.presets import standard_values
from maskaq_jax.finetuning.step import FinetuningSettings
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import paths
from maskaq_jax.synthesis.terms import IMAGE_TERMS, LossWeights
from maskaq_jax.torch_import import hub


def validated(config: ConfigDict) -> Config:
    """Checks a config, settles what follows from its other fields, and freezes it.

    Raises:
      ConfigError: names the field, what it holds and what was expected; or it is no ConfigDict.
    """
    check_returned(config)
    result = settled(from_dict(config.to_dict()))
    check_values(result)
    return result


def check_returned(config: Any) -> None:
    """Raises `ConfigError` where a config file's `get_config` returned no ConfigDict."""
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"get_config returns {type(config).__name__}, not an ml_collections.ConfigDict: start "
            "from that of configs/common.py"
        )


def settled(config: Config) -> Config:
    """Gives the fields that follow from others what they are; a second time changes nothing.

    Grids are kept where layers are fitted to them. The rest follows from the method: a loss term
    that it lacks gets weight 0 where it has a standard value, that of the paper or of a preset; a
    value of a user's own stays, and `check_values` refuses it. A term that it has gets its weight
    where it has MaskAQ's, the default.
    """
    method = METHODS[config.method]
    weights = config.synthesis.weights
    for name, weight in dataclasses.asdict(weights).items() if method.synthesizes else ():
        standard = standard_values(f"synthesis.weights.{name}")
        if name not in method.terms and weight in standard:
            weights = dataclasses.replace(weights, **{name: 0.0})
        elif name in method.terms and weight == getattr(LossWeights(), name):
            weights = dataclasses.replace(weights, **{name: method.terms[name]})
    samples, finetuning = config.samples, config.finetuning
    if not method.refreshes:
        samples = dataclasses.replace(samples, refresh_every=0)
    if not method.masks:
        finetuning = dataclasses.replace(finetuning, important_weight=1.0)
    return dataclasses.replace(
        config,
        quantization=dataclasses.replace(config.quantization, keeps_grids=config.calibration.fits),
        synthesis=dataclasses.replace(config.synthesis, weights=weights),
        samples=samples,
        finetuning=finetuning,
    )


def check_values(config: Config) -> None:
    """Checks what types alone don't say: choices, and what belongs together.

    Raises:
      ConfigError: names the field, what it holds and what was expected.
    """
    _check_method(config)
    _check_samples(config.samples)
    _check_optimizer(config.finetuning)
    network = _check_model(config)
    _check_pixels(config, network)
    _check_outputs(config, network)
    for images in (evaluation_source(config), real_images(config)):
        if images is not None:
            images.check(network)
    _check_weights(config.model.weights)


def _check_samples(samples: Samples) -> None:
    if samples.num_trained < 1:
        raise ConfigError(
            f"config.samples.held_out is {samples.held_out} of config.samples.num_samples="
            f"{samples.num_samples}, which leaves none to calibrate and train on"
        )


def _check_method(config: Config) -> None:
    method = METHODS[config.method]
    if not method.synthesizes:
        return
    weights = dataclasses.asdict(config.synthesis.weights)
    foreign = [name for name, weight in weights.items() if weight and name not in method.terms]
    if foreign:
        raise ConfigError(
            f"config.method is {config.method!r}, whose loss has no {' and no '.join(foreign)}: "
            + ", ".join(f"config.synthesis.weights.{name} must be 0" for name in foreign)
            + f", got {', '.join(str(weights[name]) for name in foreign)}"
        )
    if not any(weights.values()):
        raise ConfigError("config.synthesis.weights are all 0: nothing to optimise")
    of_models = [name for name in method.terms if name not in IMAGE_TERMS]
    if config.synthesis.num_steps and not any(weights[name] for name in of_models):
        raise ConfigError(
            f"config.synthesis.weights ask nothing of the model in {config.synthesis.num_steps} "
            f"steps: set one of {', '.join(of_models)}, or config.synthesis.num_steps to 0, which "
            "leaves images as they are drawn"
        )


def _check_optimizer(finetuning: FinetuningSettings) -> None:
    rate, relative = finetuning.learning_rate, finetuning.relative_learning_rate
    if relative and rate != FinetuningSettings.learning_rate:
        raise ConfigError(
            f"config.finetuning.learning_rate is {rate:g}, but weights are trained by "
            f"relative_learning_rate={relative:g}: set that to 0, or leave learning_rate alone"
        )
    if finetuning.optimizer == "adam":
        return
    if finetuning.step_learning_rate:
        raise ConfigError(
            "config.finetuning.step_learning_rate is a share of the step sizes with 'adam' only: "
            f"with {finetuning.optimizer!r} set it to 0, which trains them as zero points are"
        )
    if finetuning.relative_learning_rate:
        raise ConfigError(
            "config.finetuning.relative_learning_rate is a share of the weights with 'adam' only: "
            f"with {finetuning.optimizer!r} set it to 0, and learning_rate instead"
        )


def _check_model(config: Config) -> models.Model:
    model = config.model
    schema.choose("config.model.name", model.name, models.model_names())
    without_rules = dataclasses.replace(config.quantization, rules="")
    try:
        network = create_model(dataclasses.replace(config, quantization=without_rules))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.model: {error}") from error
    try:
        config.quantization.settled(models.layer_names(network))
    except ValueError as error:
        raise ConfigError(f"config.quantization.rules: {error}") from error
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


def _check_outputs(config: Config, network: models.Model) -> None:
    """Without classes there are none to synthesise, to choose or to distil by.

    The probability of a classifier's single class is 1 whatever the model says, and a loss of it
    always 0.
    """
    is_classifier = network.task == "classification"
    if not is_classifier and config.synthesis.background == "auto":
        raise ConfigError(
            f"config.model.name is {config.model.name!r}, a model for {network.task}, and a "
            "background is chosen by the classes of whole images, so config.synthesis.background "
            "must be 'none', 'black' or 'white', got 'auto'"
        )
    if network.num_classes > 1 or network.task in ("detection", "segmentation"):
        return
    has = "no classes" if network.task == "features" else "no classifier (num_classes is 0)"
    if network.num_classes:
        has = "a single class (num_classes is 1)"
    if config.synthesis.weights.classes:
        raise ConfigError(
            f"config.model has {has}, so config.synthesis.weights.classes"
            f" must be 0, got {config.synthesis.weights.classes}"
        )
    if is_classifier and config.finetuning.output_distance == "kl":
        raise ConfigError(
            f"config.model has {has}, so "
            "config.finetuning.output_distance must be 'cosine' or 'mse', got 'kl'"
        )
    if config.synthesis.background == "auto":
        raise ConfigError(
            f"config.model has {has}, which leaves no classes to choose a colour by, so "
            "config.synthesis.background must be 'none', 'black' or 'white', got 'auto'"
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
    elif weights.startswith(paths.EMBEDDED_SCHEME) and not path.exists():
        known = sorted(other.stem for other in path.parent.glob("*.safetensors"))
        schema.choose(
            "config.model.weights", weights, [f"{paths.EMBEDDED_SCHEME}{name}" for name in known]
        )
    elif not path.exists():
        advice = paths.hub_address(weights)
        raise ConfigError(f"config.model.weights: {advice or paths.missing_file(path)}")
