"""What a report tells, as data: read by `gathering`, shown by `page`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from maskaq_jax.sensitivity import TensorLoss


class Answer(NamedTuple):
    """The class that a model takes a picture for, and its probability, 0 to 1."""

    label: int
    share: float


@dataclasses.dataclass(frozen=True)
class Sample:
    """A picture that Q was calibrated or trained on, and what both models make of it.

    Attributes:
      pixels: [height, width, 3] uint8.
      regions: [rows, columns] bool, the patches that P finds informative.
      attention_p: [rows, columns] float32, how informative P finds each patch.
      attention_q: the same of Q.
      answer_p: P's class; None where there are no classes.
      answer_q: Q's.
      found_p: [height, width, 3] uint8, the picture with what P finds in it drawn in; None of
        models that find nothing in places.
      found_q: the same of Q.
    """

    pixels: np.ndarray
    regions: np.ndarray
    attention_p: np.ndarray
    attention_q: np.ndarray
    answer_p: Answer | None
    answer_q: Answer | None
    found_p: np.ndarray | None = None
    found_q: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Looks:
    """What both models make of some samples.

    Attributes:
      samples: some.
      ratio: share of the patches that are informative regions.
      correlations: of the scores that P and Q give the patches of these samples, in each layer; not
        a number where one of them gives all the same.
    """

    samples: Sequence[Sample]
    ratio: float
    correlations: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Layer:
    """What has bits of its own: a dense layer, or an operand of attention.

    Attributes:
      name: dotted.
      weight_bits: 32 for none; None where there is no kernel.
      activation_bits: 32 for none; None where there is no activation to round.
      weight_steps: least, median and largest step of its output channels, if rounded.
      code_shares: [n] of its weights at each code, from the lowest on, if rounded; of more than 6
        bits, of several codes each.
      activation_step: of its input, if rounded.
      zero_point: of its input, if rounded.
    """

    name: str
    weight_bits: int | None
    activation_bits: int | None
    weight_steps: tuple[float, float, float] | None
    code_shares: np.ndarray | None
    activation_step: float | None
    zero_point: float | None


class Setting(NamedTuple):
    """A field of the config.

    Attributes:
      name: dotted.
      value: as text.
      standard: the preset's or the default value, where it is another one.
      of_preset: whether the preset has a value for the field.
    """

    name: str
    value: str
    standard: str | None
    of_preset: bool


class Entry(NamedTuple):
    """Something in the run's directory: its size in bytes, and how many files it is."""

    name: str
    size: int
    num_files: int


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What `python -m maskaq_jax.sensitivity` found.

    Attributes:
      losses: those that lose most first.
      weight_bits, activation_bits: at which it was measured.
      num_images: on which it was.
      suggested_rules: empty for none.
    """

    losses: Sequence[TensorLoss]
    weight_bits: int
    activation_bits: int
    num_images: int
    suggested_rules: str


@dataclasses.dataclass(frozen=True)
class Contents:
    """All that a report tells of a run.

    Attributes:
      workdir: the run's directory, as it was named.
      version: of this package.
      finished: when it ended, as text.
      model: its name.
      results: as in `results.json`.
      metrics: records of `metrics.jsonl`, in order.
      refresh_epochs: before which images were made again.
      preset: the name of the nearest one.
      settings: every field of the config.
      looks: None where P or the samples can't be read.
      layers: in the order of a pass.
      float_bytes: of the model's parameters in float32.
      packed_bytes: of the low-bit model, its weights packed to their bits.
      sensitivity: None where it was not measured.
      entries: of the directory.
      command: which started the run, without its directory; empty where it was not written down.
      notes: what could not be read, and why.
    """

    workdir: str
    version: str
    finished: str
    model: str
    results: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    refresh_epochs: Sequence[int]
    preset: str
    settings: Sequence[Setting]
    looks: Looks | None
    layers: Sequence[Layer]
    float_bytes: int
    packed_bytes: int
    sensitivity: Sensitivity | None
    entries: Sequence[Entry]
    command: str
    notes: Sequence[str]
