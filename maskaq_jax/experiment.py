"""What a run reads and writes: checked before any work starts, found again when it is done."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np
from jax.sharding import Mesh

from maskaq_jax import (
    checkpoint,
    config,
    data,
    files,
    hub,
    image_folder,
    parallel,
    programs,
    schedule,
    tfds_images,
    torch_import,
)
from maskaq_jax.config import Config
from maskaq_jax.models import Model
from maskaq_jax.schema import ConfigError

_LOCK = "lock"
# Of the weights a run was started with.
_WEIGHTS = "weights.json"
# Files of a start that was killed before it wrote config.json.
_REMAINS = (
    _LOCK,
    _WEIGHTS,
    *(files.unfinished(Path(name)).name for name in (_WEIGHTS, "config.json")),
)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All a run reads.

    Attributes:
      config: validated.
      workdir: the run's directory.
      mesh: the devices.
      model: Q; P is its full-precision clone.
      params: P's weights.
      evaluation: labelled images, if there are any.
      real: normalised training images, read for the method 'real' alone.
    """

    config: Config
    workdir: Path
    mesh: Mesh
    model: Model
    params: Any
    evaluation: data.Dataset | None
    real: np.ndarray | None


def prepare(settings: Config, workdir: Path) -> Experiment:
    """Reads and checks everything a run needs, and writes nothing.

    Raises:
      ConfigError: a field doesn't fit the machine, or the directory holds something else.
      ValueError, OSError: a file can't be read or doesn't fit.
    """
    _check_workdir(settings, workdir)
    mesh = parallel.make_mesh()
    model = config.create_model(settings)
    evaluation = _open_evaluation(settings, model)
    params = torch_import.load_torch_weights(_weights_source(settings.model.weights), model)
    _check_weights(params, settings, workdir)
    channels = model.input_shape[-1]
    real = _read_real_samples(settings, channels) if settings.method == "real" else None
    return Experiment(settings, workdir, mesh, model, params, evaluation, real)


@contextlib.contextmanager
def claim(experiment: Experiment) -> Iterator[None]:
    """Makes the directory this run's alone, until it ends in whatever way.

    Raises:
      ConfigError: another run is at work there, or the hosts don't share it.
    """
    workdir = experiment.workdir
    lock = filelock.FileLock(workdir / _LOCK)
    refusal: Exception | None = None
    if parallel.is_main_process():
        try:
            _write_start(experiment, lock)
        except (ConfigError, OSError) as error:
            refusal = error
    if parallel.take_from_main(refusal is not None):
        lock.release()
        raise refusal or ConfigError(f"process 0 refuses {workdir}: its own message says why")
    if not (workdir / "config.json").is_file():
        raise ConfigError(
            f"process {jax.process_index()} doesn't see {workdir}: name a --workdir that all hosts "
            "share"
        )
    try:
        yield
    finally:
        lock.release()


def _write_start(experiment: Experiment, lock: filelock.BaseFileLock) -> None:
    """Takes the directory and says in it what the run is."""
    workdir = experiment.workdir
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"workdir {workdir} can't be made: {error.strerror}") from error
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ConfigError(f"another run is at work in {workdir}: name another --workdir") from None
    _check_workdir(experiment.config, workdir)
    files.write_json(workdir / _WEIGHTS, {"crc32": checkpoint.checksum(experiment.params)})
    files.write_json(workdir / "config.json", config.as_dict(experiment.config))


def _check_weights(params: Any, settings: Config, workdir: Path) -> None:
    """Raises `ConfigError` if a run was started there with other weights."""
    saved = workdir / _WEIGHTS
    if not saved.is_file():
        return
    try:
        before = json.loads(saved.read_text(encoding="utf-8"))["crc32"]
    except (ValueError, TypeError, LookupError) as error:
        raise ConfigError(f"{saved} is not readable: {error}") from error
    if before != checkpoint.checksum(params):
        raise ConfigError(
            f"workdir {workdir} holds a run of other weights than those that "
            f"{settings.model.weights} has now: name another --workdir"
        )


def load(workdir: str | os.PathLike[str]) -> tuple[Model, Any]:
    """The quantized model of a finished run, for `model.apply(variables, images)`.

    Args:
      workdir: of the run.

    Returns:
      Q and its variables, `params` and `quant`.

    Raises:
      FileNotFoundError: there is no finished run.
      OSError: its last checkpoint is damaged.
    """
    workdir = Path(workdir)
    if not (workdir / "results.json").is_file():
        raise FileNotFoundError(
            f"no finished run in {workdir}: there is no results.json (a stopped run continues when "
            "it is started again with the same config and workdir)"
        )
    values = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    settings = config.from_dict(values)
    model = config.create_model(settings)
    # Here, wherever the run was.
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    template = parallel.shapes_on(here, programs.variable_shapes(model))
    with checkpoint.open_reader(workdir / "checkpoints") as checkpoints:
        saved = checkpoint.restore(checkpoints, {"variables": template}, _fail)
    if saved is None:
        raise FileNotFoundError(f"no checkpoint in {workdir / 'checkpoints'}")
    num_steps = schedule.make_plan(settings).num_steps
    if saved.step < num_steps:
        # It was started again, went back to an older checkpoint, and was stopped.
        raise FileNotFoundError(
            f"the run in {workdir} stands at step {saved.step} of {num_steps}: start it again with "
            "the same config and workdir to finish it"
        )
    return model, saved.trees["variables"]


def _fail(message: str) -> None:
    raise checkpoint.DamagedError(f"{message}; start the run again to repair it")


def _weights_source(weights: str) -> str | Path:
    return weights if weights.startswith(hub.SCHEME) else data.weights_path(weights)


def _open_evaluation(settings: Config, model: Model) -> data.Dataset | None:
    evaluation, (size, _, channels) = settings.evaluation, model.input_shape
    if evaluation.dataset == data.EMBEDDED:
        return list(zip(*data.load_embedded(evaluation.split, channels), strict=True))
    if evaluation.dataset.startswith(data.TFDS_SCHEME):
        return tfds_images.open_split(
            evaluation.dataset.removeprefix(data.TFDS_SCHEME),
            evaluation.split,
            evaluation.path,
            model.num_classes,
            size,
            evaluation.preprocessing,
        )
    if evaluation.dataset == "folder":
        labels = Path(evaluation.labels) if evaluation.labels else None
        return image_folder.open_folder(
            Path(evaluation.path), labels, model.num_classes, size, evaluation.preprocessing
        )
    return None


def _check_workdir(settings: Config, workdir: Path) -> None:
    if "\0" in str(workdir):
        raise ConfigError(f"workdir {str(workdir)!r} is no name of a directory")
    # A link to nothing counts as something there.
    there = next(filter(os.path.lexists, (workdir.absolute(), *workdir.absolute().parents)))
    if not there.is_dir():
        raise ConfigError(f"workdir {workdir}: {there} is not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"workdir {workdir}: {there} can't be written to")
    if not workdir.exists():
        return
    saved = workdir / "config.json"
    if not saved.is_file():
        if any(path.name not in _REMAINS for path in workdir.iterdir()):
            raise ConfigError(
                f"workdir {workdir} holds files that are no run of ours: name another --workdir"
            )
        return
    try:
        before = json.loads(saved.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{saved} is not readable: {error}") from error
    # Through JSON, so that tuples compare equal to the lists they are stored as.
    now = json.loads(json.dumps(config.as_dict(settings)))
    differences = _differences(before, now, "config")
    if differences:
        raise ConfigError(
            f"workdir {workdir} holds another run, which differs in {', '.join(differences[:3])}"
            f"{', ...' if len(differences) > 3 else ''}: name another --workdir"
        )


def _differences(before: Any, now: Any, path: str) -> list[str]:
    """Dotted names of the fields that differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for name in sorted(before.keys() | now.keys())
            for difference in _differences(before.get(name), now.get(name), f"{path}.{name}")
        ]
    return [] if before == now else [f"{path} ({before!r} there, {now!r} here)"]


def _read_real_samples(settings: Config, num_channels: int) -> np.ndarray:
    images, _ = data.load_embedded("real", num_channels)
    count = settings.samples.num_samples
    if count > len(images):
        raise ConfigError(
            f"config.samples.num_samples is {count}, but only {len(images)} real images ship "
            "with the package"
        )
    return settings.pixels.from_bytes(images[:count])
