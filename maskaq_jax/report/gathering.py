"""Reads what a report tells of a finished run from the run's directory."""

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maskaq_jax import __version__
from maskaq_jax.config import Config
from maskaq_jax.devices import parallel
from maskaq_jax.models import Model
from maskaq_jax.report import layers, looks, settings
from maskaq_jax.report.contents import Contents, Entry, Looks, Sensitivity
from maskaq_jax.runs import directory, training_images
from maskaq_jax.runs.inputs import RunInputs
from maskaq_jax.runs.plan import make_plan
from maskaq_jax.sensitivity import TensorLoss
from maskaq_jax.storage import whole_files

# A phone shows two beside each other, a wide page four.
_SAMPLES_SHOWN = 12


def read(workdir: Path, model: Model, variables: Any, inputs: RunInputs | str) -> Contents:
    """Reads a finished run.

    Args:
      workdir: of the run.
      model: Q.
      variables: its `params` and `quant`.
      inputs: what the run reads; or, where it can't any more, why not.

    Raises:
      OSError: a file can't be read.
      ValueError: one is damaged.
    """
    config = directory.read_settings(workdir)
    variables = parallel.fetch(variables)
    notes: list[str] = []
    plan = make_plan(config)
    epochs = range(config.finetuning.epochs)
    every = config.samples.refresh_every
    results = workdir / directory.RESULTS
    preset, fields = settings.compare(config)
    float_bytes, packed_bytes = layers.count_bytes(model, variables)
    return Contents(
        workdir=str(workdir),
        version=__version__,
        finished=_time_of(results),
        model=config.model.name,
        results=directory.read_results(workdir),
        metrics=list(_read_metrics(workdir / directory.METRICS)),
        refresh_epochs=[epoch for epoch in epochs if plan.is_refresh(epoch * plan.steps_per_epoch)]
        if every
        else [],
        preset=preset,
        settings=fields,
        looks=_look(model, variables, config, inputs, notes),
        layers=layers.describe(model, variables),
        float_bytes=float_bytes,
        packed_bytes=packed_bytes,
        sensitivity=_read_sensitivity(workdir / directory.SENSITIVITY, notes),
        entries=list(_list_entries(workdir)),
        command=_read_command(workdir / directory.COMMAND),
        notes=notes,
    )


def _look(
    model: Model, variables: Any, config: Config, inputs: RunInputs | str, notes: list[str]
) -> Looks | None:
    """Samples as both models see them; None, with a note, where P or they are not there."""
    if isinstance(inputs, str):
        notes.append(f"samples and attention are not shown: {inputs}")
        return None
    count = min(_SAMPLES_SHOWN, config.samples.num_samples)
    try:
        images = training_images.read_newest(inputs, np.arange(count))
    except OSError as error:
        notes.append(f"samples and attention are not shown: {error}")
        return None
    params = parallel.fetch(inputs.params)
    ratio = config.synthesis.initial_ratio
    return looks.look(model, params, variables, images, ratio, config.pixels)


def _time_of(path: Path) -> str:
    """When a file was written, in the machine's own time."""
    time = datetime.datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    return time.strftime("%Y-%m-%d %H:%M %Z")


def _read_metrics(path: Path) -> Iterator[Mapping[str, Any]]:
    """Whole records; a run that was killed may have left half a line."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"phase", "step"} <= record.keys():
            yield record


def _read_sensitivity(path: Path, notes: list[str]) -> Sensitivity | None:
    """None where it was not measured or, with a note, is damaged."""
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Sensitivity(
            losses=[TensorLoss(**loss) for loss in told["tensors"]],
            weight_bits=int(told["weight_bits"]),
            activation_bits=int(told["activation_bits"]),
            num_images=int(told["num_images"]),
            suggested_rules=str(told["suggested_rules"]),
        )
    except (OSError, ValueError, TypeError, LookupError) as error:
        notes.append(f"{path.name} can't be read: {error}")
        return None


def _read_command(path: Path) -> str:
    """Empty where none was written down."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["command"])
    except (OSError, ValueError, TypeError, LookupError):
        return ""


def _list_entries(workdir: Path) -> Iterator[Entry]:
    """What lies in the directory, but for the report itself, locks and what is half written."""
    report = workdir / directory.REPORT
    left_out = {directory.LOCK, report.name, whole_files.unfinished(report).name}
    for path in sorted(workdir.iterdir()):
        if path.name in left_out:
            continue
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        yield Entry(path.name, sum(file.stat().st_size for file in files), len(files))
