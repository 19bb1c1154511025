"""What an experiment is: its fields and defaults, and their validation.

The defaults are the paper's settings at 4 bits, but for what `docs/method.md` section 5 changes on
purpose. A config file starts from `default()`, a ConfigDict, and says what differs; `validated`
turns it into frozen dataclasses, and an unknown field, a wrong type or an impossible value into an
error that names it.
"""

import dataclasses
import functools
import operator
import typing
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from ml_collections import ConfigDict

from maskaq_jax import models, schema
from maskaq_jax.calibration import CalibrationSettings
from maskaq_jax.config.methods import MethodName
from maskaq_jax.data import class_order
from maskaq_jax.data.class_order import ClassOrder
from maskaq_jax.data.preprocessing import Preprocessing
from maskaq_jax.finetuning.step import FinetuningSettings
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import Quantization
from maskaq_jax.schema import NonNegativeFloat, NonNegativeInt, PositiveInt
from maskaq_jax.synthesis.step import SynthesisSettings

# Samples that a trained Q is compared by, where none are held out.
_COMPARED = 64


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The full-precision model P that is quantized.

    Attributes:
      name: of `models.create_model`.
      num_classes: 0 for no classifier.
      arguments: of `models.create_model`.
      weights: a file of weights of PyTorch or JAX, or a folder with one;
        'hf://organisation/name[@revision]' of the Hugging Face hub; or 'embedded:NAME' for one that
        ships with the package.
      weights_key: where a file holds other things too, the key or the prefix of names that the
        weights are under, such as 'teacher' or 'model_ema'.
    """

    name: str = "deit_tiny_patch16_224"
    num_classes: NonNegativeInt = 1000
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: str = ""
    weights_key: str = schema.added("")


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
      real: folder of images for the method 'real', at any depth, without labels; empty for those
        that ship with the package.
      held_out: samples, the last ones, that neither calibrate nor train Q. By them a trained Q is
        compared with what it started from; with 0, by the ones that it is trained on.
    """

    num_samples: PositiveInt = 10_000
    batch_size: PositiveInt = 32
    refresh_every: NonNegativeInt = 30
    calibration: Literal["synthetic", "noise"] = "synthetic"
    calibration_size: PositiveInt = 64
    real: str = schema.added("")
    held_out: NonNegativeInt = schema.added(0)

    @property
    def num_trained(self) -> int:
        """Samples that train Q."""
        return self.num_samples - self.held_out

    @property
    def num_compared(self) -> int:
        """Samples that a trained Q is compared by."""
        return self.held_out or min(_COMPARED, self.num_samples)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The labelled images accuracies are measured on.

    Attributes:
      dataset: 'fashion_mnist', the embedded one, or 'scenes' of its garments for detectors and
        segmenters; 'folder', one of `path`; 'coco', a folder of pictures and a JSON of boxes;
        'ade20k' or 'label_maps', a folder of pictures and one of label maps; 'tfds:NAME', one of
        TensorFlow Datasets; empty for none.
      split: of the embedded ones: 'test', or 'validation' to choose settings on; or TFDS's.
      path: the folder, which holds a folder for each class, or images; or where TFDS's datasets
        are, empty for its own place.
      labels: of 'folder', file of a line `NAME LABEL` for each image of `path`, empty for a folder
        a class; of 'coco', the JSON; of 'ade20k' (where 0 is nothing) and 'label_maps' (where 255
        is), the folder of the PNGs.
      preprocessing: how images of a folder or of TFDS become the model's size.
      batch_size: images a step.
      order: which class folder is class 0: by 'number', '2' before '10' and names that are no
        numbers by themselves; by 'name', '10' before '2', as torchvision trains; or as `labels`
        lists them, a 'file' with a folder's name a line (or JSON).
    """

    dataset: str = ""
    split: str = ""
    path: str = ""
    labels: str = ""
    preprocessing: Preprocessing = Preprocessing()
    batch_size: PositiveInt = 256
    order: ClassOrder = schema.added(class_order.DEFAULT)


@dataclasses.dataclass(frozen=True)
class Config:
    """An experiment.

    Attributes:
      seed: of every random draw.
      method: where the samples come from, a name of `METHODS`.
      calibration: how Q's first quantizers are found, and its weights rounded.
      checkpoint_seconds: least time between two saves within synthesis or fine-tuning.
    """

    seed: NonNegativeInt = 0
    method: MethodName = "maskaq"
    model: ModelSettings = ModelSettings()
    pixels: Pixels = Pixels()
    quantization: Quantization = Quantization(weight_bits=4, activation_bits=4)
    samples: Samples = Samples()
    synthesis: SynthesisSettings = SynthesisSettings()
    finetuning: FinetuningSettings = FinetuningSettings()
    evaluation: Evaluation = Evaluation()
    checkpoint_seconds: NonNegativeFloat = 60.0
    calibration: CalibrationSettings = schema.added(CalibrationSettings())


def default() -> ConfigDict:
    """The paper's settings, to be changed by a config file."""
    return ConfigDict(dataclasses.asdict(Config()))


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


def update(config: ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets fields of a config by their dotted names, as `{"finetuning.epochs": 5}`.

    Raises:
      ConfigError: there is no such field, or it has another type.
    """
    for name, value in values.items():
        check_field(f"config.{name}")
        *parents, last = name.split(".")
        parent = functools.reduce(operator.getitem, parents, config)
        try:
            with parent.unlocked():  # arguments of a model may be new
                parent[last] = value.item() if isinstance(value, np.generic) else value
        except TypeError as error:
            raise schema.ConfigError(f"config.{name}: {error}") from error


def check_field(path: str) -> None:
    """Raises `ConfigError` if there is no such field as `config.samples.num_samples`."""
    _kind_of(path)


def fields_of(path: str) -> list[str]:
    """Names of what is in a group of fields, such as `config.evaluation`; none of a field.

    Raises:
      ConfigError: there is no such field or group.
    """
    kind = _kind_of(path)
    return list(typing.get_type_hints(kind)) if dataclasses.is_dataclass(kind) else []


def _kind_of(path: str) -> Any:
    """The type of a field or of a group of them."""
    kind: Any = Config
    known = "config"
    for name in path.split(".")[1:]:
        if not dataclasses.is_dataclass(kind):
            return None  # a field's own keys are for whoever reads it
        hints = typing.get_type_hints(kind)
        schema.check_known(f"field {known}.{name}", name, hints)
        kind, known = hints[name], f"{known}.{name}"
    return kind


def as_dict(config: Config) -> dict[str, Any]:
    """JSON values of a config."""
    return dataclasses.asdict(config)


def identity(config: Config) -> dict[str, Any]:
    """What tells an experiment from others: JSON values without `schema.added` fields at a default.

    Fields that are added later leave the identity of what is recorded as it is.
    """
    return schema.identity(config)
