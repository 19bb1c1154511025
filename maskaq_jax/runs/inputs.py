"""All a run reads, checked before any work starts; and the model of a finished run."""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from maskaq_jax import config, data, torch_import
from maskaq_jax.config import Config
from maskaq_jax.data import preprocessing
from maskaq_jax.data.preprocessing import Preprocessing, Size
from maskaq_jax.devices import parallel
from maskaq_jax.models import Model, shapes
from maskaq_jax.runs import checkpoint, directory, pictures
from maskaq_jax.runs.plan import make_plan
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import paths
from maskaq_jax.torch_import import hub

# A path, a picture that Pillow has opened, or [height, width, channels] uint8.
Picture = str | os.PathLike[str] | Image.Image | np.ndarray | jax.Array
# Settings of JAX that make errors of what is meant.
_GUARDED = ("disallow", "disallow_explicit")
_REFUSING_SETTINGS = {
    "jax_numpy_dtype_promotion": ("strict",),
    "jax_transfer_guard": _GUARDED,
    "jax_transfer_guard_host_to_device": _GUARDED,
    "jax_transfer_guard_device_to_host": _GUARDED,
    "jax_transfer_guard_device_to_device": _GUARDED,
}
# Of an array that is a picture: grey, RGB, and each with how opaque it is.
_CHANNELS = (1, 2, 3, 4)


@dataclasses.dataclass(frozen=True)
class RunInputs:
    """All a run reads.

    Attributes:
      config: validated.
      workdir: the run's directory.
      mesh: the devices.
      model: Q; P is its full-precision clone.
      params: P's weights.
      evaluation: labelled images, if there are any.
      real: normalised training images, read for the method 'real' alone.
      notes: what was taken for granted while reading.
      command: which starts the run, without its directory; empty where nobody would repeat it.
      fingerprints: of a user's own images, by 'evaluation' and 'real'; on the main process alone.
    """

    config: Config
    workdir: Path
    mesh: Mesh
    model: Model
    params: Any
    evaluation: data.Dataset | None
    real: np.ndarray | None
    notes: tuple[str, ...] = ()
    command: str = ""
    fingerprints: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def is_labelled(self) -> bool:
        """Whether there are images to measure accuracy on, and classes to tell apart."""
        return self.evaluation is not None and tells_classes_apart(self.model)

    @property
    def num_evaluation_images(self) -> int:
        """Broken ones among them; 0 without a dataset."""
        return 0 if self.evaluation is None else len(self.evaluation)


def tells_classes_apart(model: Model) -> bool:
    """Whether a model has an accuracy; a detector tells a single class from no object."""
    return model.num_classes > 1 or model.task == "detection"


def prepare(settings: Config, workdir: Path) -> RunInputs:
    """Reads and checks everything a run needs, and writes nothing.

    Raises:
      ConfigError: a field doesn't fit the machine, or the directory holds something else.
      ValueError, OSError: a file can't be read or doesn't fit.
    """
    _check_32_bits()
    _check_jax()
    mesh = parallel.make_mesh()
    # The others don't look: an NFS client remembers for a while that a file was not there.
    if parallel.is_main_process():
        directory.check(workdir, settings)
    model = config.create_model(settings)
    source = config.evaluation_source(settings)
    notes: list[str] = []
    evaluation = None if source is None else source.open(model, notes.append)
    if evaluation is not None:
        data.check_readable(evaluation)
    params = _read_weights(settings, model, notes)
    pictures.check(settings, _weights_source(settings.model.weights))
    if parallel.is_main_process():
        directory.check_weights(workdir, settings, params)
    images = config.real_images(settings)
    real = None if images is None else images.read(model, notes.append)
    fingerprints: dict[str, int] = {}
    if parallel.is_main_process():
        fingerprints = _fingerprints(evaluation, images)
        directory.check_images(workdir, settings, fingerprints)
    return RunInputs(
        *(settings, workdir, mesh, model, params, evaluation, real, tuple(notes)),
        fingerprints=fingerprints,
    )


def _fingerprints(evaluation: data.Dataset | None, real: data.RealSource | None) -> dict[str, int]:
    """Of the images that are files of a user's own."""
    sources = {"evaluation": evaluation, "real": real}
    found = {name: data.fingerprint(source) for name, source in sources.items() if source}
    return {name: value for name, value in found.items() if value is not None}


def reopen(workdir: Path) -> RunInputs:
    """What a run that has calibrated Q read, but for its evaluation images; writes nothing.

    Raises:
      ConfigError: the folder holds no such run, or one of other weights or real images than there
        are now.
      ValueError, OSError: a file can't be read or doesn't fit.
    """
    if not workdir.is_dir():
        raise ConfigError(f"workdir {workdir} is no folder")
    if not (workdir / directory.CONFIG).is_file():
        raise ConfigError(f"workdir {workdir} holds no run: there is no {directory.CONFIG}")
    settings = directory.read_settings(workdir)
    if not any(path.name.isdecimal() for path in workdir.glob(f"{directory.CHECKPOINTS}/*")):
        raise ConfigError(
            f"the run in {workdir} has not calibrated its model yet: start it again with the same "
            "config and workdir"
        )
    _check_32_bits()
    mesh = parallel.make_mesh()
    model = config.create_model(settings)
    with _telling_of(workdir):
        params = _read_weights(settings, model, [])
    directory.check_weights(workdir, settings, params)
    with _telling_of(workdir):
        images = config.real_images(settings)
        real = None if images is None else images.read(model)
    directory.check_images(workdir, settings, _fingerprints(None, images))
    return RunInputs(settings, workdir, mesh, model, params, None, real)


@contextlib.contextmanager
def _telling_of(workdir: Path) -> Iterator[None]:
    """Adds to an error of what a run read where that is written down, to be changed."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}: if its path is of another directory than this, start there; if it is "
            f"elsewhere by now, say so in {workdir / directory.CONFIG}"
        ) from error


def _check_32_bits() -> None:
    """Raises `ConfigError` where JAX makes 64-bit numbers, as of parameters' shapes."""
    if jax.config.values["jax_enable_x64"]:
        raise ConfigError(
            "JAX computes in 64 bits (JAX_ENABLE_X64), which runs don't: unset it, or call "
            "jax.config.update('jax_enable_x64', False) before anything else of JAX"
        )


def _check_jax() -> None:
    """Raises `ConfigError` where JAX is set to refuse what runs do."""
    for name, refused in _REFUSING_SETTINGS.items():
        value = jax.config.values.get(name)
        if value in refused:
            raise ConfigError(
                f"{name.upper()} is {getattr(value, 'value', value)!r}, with which runs don't "
                "work: unset it, or call jax.config.update with its default before anything else "
                "of JAX"
            )


def load(workdir: str | os.PathLike[str]) -> tuple[Model, Any]:
    """The quantized model of a finished run, for `model.apply(variables, images)`.

    Args:
      workdir: of the run.

    Returns:
      Q and its variables, `params` and `quant`.

    Raises:
      FileNotFoundError: there is no finished run.
      ConfigError: JAX computes in 64 bits.
      OSError: its last checkpoint is damaged, or JAX finds no device.
    """
    workdir = paths.expanded_path(os.fspath(workdir))
    directory.check_finished(workdir)
    _check_32_bits()
    # Here, wherever the run was.
    here = jax.sharding.SingleDeviceSharding(parallel.find_devices()[0])
    settings = directory.read_settings(workdir)
    model = config.create_model(settings)
    template = parallel.shapes_on(here, shapes.variable_shapes(model))
    with checkpoint.open_reader(workdir / directory.CHECKPOINTS) as checkpoints:
        saved = checkpoint.restore(checkpoints, {"variables": template}, _fail)
    if saved is None:
        raise FileNotFoundError(f"no checkpoint in {workdir / directory.CHECKPOINTS}")
    num_steps = make_plan(settings).num_steps
    if saved.step < num_steps:
        # It was started again, went back to an older checkpoint, and was stopped.
        raise FileNotFoundError(
            f"the run in {workdir} stands at step {saved.step} of {num_steps}: start it again with "
            "the same config and workdir to finish it"
        )
    return model, saved.trees["variables"]


def read_images(
    workdir: str | os.PathLike[str],
    files: Picture | Iterable[Picture],
) -> np.ndarray:
    """Pictures as the model of a run takes them.

    Args:
      workdir: of the run, whose `config.json` says how pictures are resized, cropped and
        normalised.
      files: paths of pictures of any size that Pillow reads, pictures that it has opened, or
        [height, width, channels] uint8; one, several, or a batch of such arrays.

    Returns:
      [B, height, width, channels] float32, normalised.

    Raises:
      FileNotFoundError: there is no run, or no such file.
      ValueError: a file is no picture, or an array of another shape or dtype; it is named.
    """
    settings = directory.read_settings(paths.expanded_path(os.fspath(workdir)))
    height, width, channels = config.create_model(settings).input_shape
    is_batch = isinstance(files, np.ndarray | jax.Array) and files.ndim == 4
    is_several = is_batch or (
        isinstance(files, Iterable)
        and not isinstance(files, str | bytes | bytearray | Image.Image | np.ndarray | jax.Array)
    )
    pictures: Any = files if is_several else [files]
    images = [
        _with_channels(
            _read_picture(picture, (height, width), settings.evaluation.preprocessing),
            channels,
        )
        for picture in pictures
    ]
    if not images:
        return np.zeros((0, height, width, channels), np.float32)
    return settings.pixels.from_bytes(np.stack(images))


def _read_picture(picture: Picture, size: Size, settings: Preprocessing) -> np.ndarray:
    """[height, width, 3] uint8."""
    if isinstance(picture, np.ndarray | jax.Array):
        array = np.asarray(picture)
        _check_array(array)
        picture = Image.fromarray(array.squeeze(-1) if array.shape[2:] == (1,) else array)
    if isinstance(picture, Image.Image):
        return preprocessing.preprocess(picture, size, settings)
    if not isinstance(picture, str | os.PathLike):
        raise ValueError(
            "a picture is a path, one that Pillow has opened, or [height, width, channels] uint8, "
            f"got {type(picture).__name__}: `PIL.Image.open(io.BytesIO(content))` opens the bytes "
            "of a file, `numpy.asarray` makes an array of other libraries' tensors"
        )
    file = paths.expanded_path(os.fspath(picture))
    if not file.is_file():
        raise FileNotFoundError(paths.missing_file(file))
    try:
        return preprocessing.read_image(file, str(file), size, settings)
    except preprocessing.BrokenImageError as error:
        raise ValueError(str(error)) from error


def _check_array(array: np.ndarray) -> None:
    """Raises ValueError for an array that is no picture."""
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in _CHANNELS):
        advice = "" if array.size else "it has no pixels"
        if array.dtype != np.uint8:
            advice = (
                "floats that are normalised already go into the model as they are, as a batch of "
                "its size"
            )
    elif array.ndim == 3 and array.shape[0] in _CHANNELS:
        advice = "channels come last, as `picture.transpose(1, 2, 0)` has them"
    elif array.ndim == 3:
        advice = "several grey pictures are `list(pictures)`, and a picture has 1 to 4 channels"
    else:
        advice = "several pictures are a list of them, or [B, height, width, channels] uint8"
    if advice:
        raise ValueError(
            "an array that is a picture is [height, width, channels] uint8, got "
            f"{array.shape} {array.dtype}: {advice}"
        )


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """[height, width, 3] uint8 with as many channels, grey where they aren't three."""
    if channels == 3:
        return image
    grey = np.asarray(Image.fromarray(image).convert("L"))
    return np.repeat(grey[..., None], channels, axis=-1)


def _fail(message: str) -> None:
    raise checkpoint.DamagedError(f"{message}; start the run again to repair it")


def _read_weights(settings: Config, model: Model, told: list[str]) -> Any:
    """P's weights; what was taken for granted is told, but of those that ship with the package."""
    fields, source = settings.model, _weights_source(settings.model.weights)
    if fields.weights.startswith(paths.EMBEDDED_SCHEME):
        told = []
    return torch_import.load_torch_weights(source, model, fields.weights_key, told.append)


def _weights_source(weights: str) -> str | Path:
    return weights if weights.startswith(hub.SCHEME) else paths.weights_path(weights)
