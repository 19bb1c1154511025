"""A finished model to a file of a format, and what may be wrong with that."""

import os
from importlib import util
from pathlib import Path
from typing import Any

from maskaq_jax import models
from maskaq_jax.config import Config
from maskaq_jax.export import formats
from maskaq_jax.export.formats import Format, Input
from maskaq_jax.export.packed import write_packed
from maskaq_jax.models import Model
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import notes
from maskaq_jax.storage.notes import Tell


def check_target(path: Path, file_format: Format) -> None:
    """Raises `ConfigError` unless a file of this format can be written there."""
    if "\0" in str(path):
        raise ConfigError(f"{str(path)!r} is no name of a file")
    if os.path.lexists(path):
        raise ConfigError(f"{path} exists already: name another --out, or remove it")
    if not path.parent.is_dir():
        raise ConfigError(f"{path} can't be written: there is no directory {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{path} can't be written: {path.parent} is not ours to write to")
    for package in formats.PACKAGES[file_format]:
        if util.find_spec(package) is None:
            raise ConfigError(
                f"--format={file_format} takes the package {package.replace('_', '-')}, which the "
                f"extra `{file_format}` installs: pip install '.[{file_format}]'"
            )


def write(
    path: Path,
    model: Model,
    variables: Any,
    settings: Config,
    file_format: Format,
    input_name: Input = "pixel_values",
    tell: Tell = notes.log,
) -> None:
    """Writes a model to a file, whole or not at all.

    Args:
      path: of the file, which isn't there yet.
      model: Q.
      variables: its `params` and `quant`.
      settings: of its run, whose normalisation and preprocessing the file tells of.
      file_format: 'onnx' or 'litert', or 'safetensors' for `load_packed`.
      input_name: what a file for runtimes takes, `pixel_values` or `pixels` (`onnx.write_onnx`).
      tell: is told where the file computes otherwise than the run.

    Raises:
      ConfigError: it can't be written there, it takes no such input, an extra is missing, or the
        model has something that the format can't express.
      OSError: the disk fails.
    """
    formats.check_input(input_name, file_format)
    if file_format == "litert" and model.task != "classification":
        raise ConfigError(
            f"--format=litert takes classifiers, and this is a model for {model.task}: take "
            "--format=onnx, or safetensors for JAX"
        )
    check_target(path, file_format)
    computed = models.description(model)["arguments"]["dtype"]
    if computed != "float32" and file_format != "safetensors":
        tell(
            f"the run computes in {computed} and the file in float32, so classes differ more often"
        )
    if file_format == "safetensors":
        write_packed(path, model, variables)
        return
    given = path, model, variables, settings.pixels, settings.evaluation.preprocessing, input_name
    if file_format == "litert":
        from maskaq_jax.export import litert  # which takes an extra

        litert.write_litert(*given)
        return
    from maskaq_jax.export import onnx  # another one

    onnx.write_onnx(*given)
