"""All a run reads, checked before any work starts; and the model of a finished run."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from maskaq_jax import (
    checkpoint,
    config,
    data,
    hub,
    image_folder,
    parallel,
    paths,
    programs,
    run_directory,
    run_files,
    schedule,
    tfds_images,
    torch_import,
)
from maskaq_jax.config import Config
from maskaq_jax.models import Model
from maskaq_jax.schema import ConfigError


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
    mesh = parallel.make_mesh()
    # The others don't look: an NFS client remembers for a while that a file was not there.
    if parallel.is_main_process():
        run_directory.check(workdir, settings)
    model = config.create_model(settings)
    evaluation = _open_evaluation(settings, model)
    if evaluation is not None:
        data.check_readable(evaluation)
    params = torch_import.load_torch_weights(_weights_source(settings.model.weights), model)
    if parallel.is_main_process():
        run_directory.check_weights(workdir, settings, params)
    channels = model.input_shape[-1]
    real = _read_real_samples(settings, channels) if settings.method == "real" else None
    return Experiment(settings, workdir, mesh, model, params, evaluation, real)


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
    if not (workdir / run_files.RESULTS).is_file():
        raise FileNotFoundError(
            f"no finished run in {workdir}: there is no {run_files.RESULTS} (a stopped run "
            "continues when it is started again with the same config and workdir)"
        )
    settings = run_directory.read_settings(workdir)
    model = config.create_model(settings)
    # Here, wherever the run was.
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    template = parallel.shapes_on(here, programs.variable_shapes(model))
    with checkpoint.open_reader(workdir / run_files.CHECKPOINTS) as checkpoints:
        saved = checkpoint.restore(checkpoints, {"variables": template}, _fail)
    if saved is None:
        raise FileNotFoundError(f"no checkpoint in {workdir / run_files.CHECKPOINTS}")
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
    return weights if weights.startswith(hub.SCHEME) else paths.weights_path(weights)


def _open_evaluation(settings: Config, model: Model) -> data.Dataset | None:
    evaluation, (size, _, channels) = settings.evaluation, model.input_shape
    if evaluation.dataset == data.EMBEDDED:
        return list(zip(*data.load_embedded(evaluation.split, channels), strict=True))
    if evaluation.dataset.startswith(data.TFDS_SCHEME):
        return tfds_images.open_split(
            evaluation.dataset.removeprefix(data.TFDS_SCHEME),
            evaluation.split,
            str(paths.expanded_path(evaluation.path)) if evaluation.path else "",
            model.num_classes,
            size,
            evaluation.preprocessing,
        )
    if evaluation.dataset == "folder":
        labels = paths.expanded_path(evaluation.labels) if evaluation.labels else None
        folder = paths.expanded_path(evaluation.path)
        return image_folder.open_folder(
            folder, labels, model.num_classes, size, evaluation.preprocessing
        )
    return None


def _read_real_samples(settings: Config, num_channels: int) -> np.ndarray:
    images, _ = data.load_embedded("real", num_channels)
    count = settings.samples.num_samples
    if count > len(images):
        raise ConfigError(
            f"config.samples.num_samples is {count}, but only {len(images)} real images ship "
            "with the package"
        )
    return settings.pixels.from_bytes(images[:count])
