"""Quantization as functions, for notebooks and programs: what `maskaq_jax.main` does, called."""

import base64
import contextlib
import dataclasses
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskaq_jax import config as config_lib
from maskaq_jax import data, report, run, torch_import
from maskaq_jax.config import Config
from maskaq_jax.config import files as config_files
from maskaq_jax.export import formats, summary
from maskaq_jax.export.formats import Input
from maskaq_jax.models import Model
from maskaq_jax.report import layers, markup
from maskaq_jax.report.housekeeping import size_of
from maskaq_jax.runs import directory, inputs, interruption, results
from maskaq_jax.runs.inputs import Picture
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import paths


@dataclasses.dataclass(frozen=True, repr=False)
class Quantized:
    """A low-bit model and what is known of it.

    Attributes:
      model: for `model.apply(variables, images)`.
      variables: its `params` and `quant`.
      results: as in `results.json`.
      workdir: of the run.
    """

    model: Model
    variables: Any
    results: dict[str, Any]
    workdir: Path

    def logits(self, images: Picture | Sequence[Picture] | np.ndarray | jax.Array) -> jax.Array:
        """What the model says of pictures.

            >>> quantized.logits(["cat.jpg", "dog.png"]).shape
            (2, 10)

        Args:
          images: a picture or several: paths, Pillow's images, or [height, width, channels] uint8;
            or [B, height, width, channels] float32, normalised as the model takes them.

        Returns:
          [B, classes] float32.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: a file is no picture, or an array of another shape or dtype; it is named.
        """
        logits, _ = self.model.apply(self.variables, jnp.asarray(self._read(images)))
        return logits

    def export(self, path: str | os.PathLike[str], *, input_name: Input = "pixel_values") -> Path:
        """Writes the model as integers, and prints what came of it.

        That is the file's size beside float32's and, where the run's evaluation images are at hand,
        how it agrees with the model and its accuracy, as its runtime computes it.

            >>> path = quantized.export("model.onnx")
            wrote model.onnx: ... of float32's ...
            same class as the low-bit model on ... images: ...

        Args:
          path: of the file: `.onnx`, which takes the extra `onnx`, `.tflite`, which takes `litert`,
            or `.safetensors`.
          input_name: what a file for runtimes takes: `pixel_values`, [B, C, H, W] float32
            normalised, or `pixels`, [B, H, W, C] uint8.

        Returns:
          The path.

        Raises:
          ConfigError: it can't be written there, it takes no such input, or the extra is missing.
        """
        path = paths.expanded_path(os.fspath(path))
        settings = directory.read_settings(self.workdir)
        file_format = formats.format_of(path)
        exported = summary.Exported(path, file_format, self.model, self.variables, settings)
        summary.write_and_say(exported, input_name, print)
        return path

    def _read(self, images: Any) -> Any:
        """[B, height, width, channels] float32, normalised."""
        is_array = isinstance(images, jax.Array | np.ndarray)
        if is_array and images.ndim == 4 and images.dtype != np.uint8:
            return images  # which the model checks
        return inputs.read_images(self.workdir, images)

    def __repr__(self) -> str:
        """What it is, without its weights."""
        told = self.results
        metric = results.shown_metrics(told)[0]
        figure = results.figures_by_model(told, metric)["quantized"]
        accuracy = "" if figure is None else f", {results.TITLES[metric].short} {figure:.2f}"
        name = type(self.model).__name__
        return (
            f"Quantized({name} at {results.bits_of(told)}{accuracy}, workdir={str(self.workdir)!r})"
        )

    def _repr_html_(self) -> str:
        """For notebooks: accuracies, sizes and samples."""
        bits = results.bits_of(self.results)
        rows = [*self._accuracies(bits), *self._sizes(bits)]
        cells = [markup.tag("tr", *(markup.tag("td", cell) for cell in row)) for row in rows]
        table = markup.tag("table", markup.tag("caption", bits), *cells)
        return markup.join([table, *self._samples(), markup.tag("p", str(self.workdir))])

    def _accuracies(self, bits: str) -> Iterator[tuple[str, str]]:
        told = self.results
        metric = results.shown_metrics(told)[0]
        figures, title = results.figures_by_model(told, metric), results.TITLES[metric].short
        for name, value, unit in (
            ("full precision", figures["fp"], title),
            (f"{bits}, calibrated", figures["calibrated"], title),
            (bits, figures["quantized"], title),
            ("same class as full precision", told.get("agreement"), "%"),
            ("cosine with its features", told.get("feature_cosine"), ""),
        ):
            if value is not None:
                yield name, f"{value:.2f} {unit}"

    def _sizes(self, bits: str) -> Iterator[tuple[str, str]]:
        """Of the model, and of files of it in the run's directory."""
        whole, packed = layers.count_bytes(self.model, self.variables)
        yield "weights in float32", size_of(whole)
        yield f"weights at {bits}", size_of(packed)
        for path in sorted(self.workdir.glob("*")):
            if path.suffix in formats.ENDINGS.values() and path.is_file():
                yield path.name, size_of(path.stat().st_size)

    def _samples(self) -> Iterator[markup.Html]:
        """The sheet of samples, beside their informative regions; nothing where there is none."""
        sheet = self.workdir / directory.SAMPLE_SHEET
        if sheet.is_file():
            source = f"data:image/png;base64,{base64.b64encode(sheet.read_bytes()).decode()}"
            yield markup.tag("img", src=source, alt="samples, beside their informative regions")


def quantize(
    model: str | os.PathLike[str],
    *,
    weights: str | None = None,
    w: int = 4,
    a: int = 8,
    num_classes: int | None = None,
    preset: str = "best",
    method: str = "maskaq",
    real: str | os.PathLike[str] | None = None,
    evaluate: str | os.PathLike[str] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    fields: Mapping[str, Any] | None = None,
) -> Quantized:
    """Quantizes a trained vision transformer without its training data.

        >>> quantized = maskaq_jax.quantize("configs/vit_fashion.py", w=3, a=3)
        >>> accuracy = quantized.results["quantized_top1"]  # in percent
        >>> classes = quantized.logits(["cat.jpg", "dog.png"]).argmax(axis=-1)

    Args:
      model: a name of `models.create_model`, which is timm's, or a config's, as
        'configs/vit_fashion.py'.
      weights: file or 'hf://organisation/name'; None for those of the model's config.
      w: bits of weights, 2 to 8, or 32 for none.
      a: bits of activations.
      num_classes: of the model; None for those of its config, ImageNet's 1000.
      preset: 'best' or 'paper'.
      method: where training images come from; 'real' takes those of a folder.
      real: that folder, without labels, at any depth.
      evaluate: images to measure accuracy on: a folder of labelled ones, with a folder for each
        class, or 'tfds:imagenet2012', whose split is 'validation' unless `fields` says otherwise.
      workdir: of the run, which continues where one was stopped in it; None for a fresh one under
        runs/.
      seed: of every random draw.
      fields: other fields of the config by dotted name, as
        `{"model.arguments.img_size": 112, "finetuning.epochs": 5}`.

    Returns:
      The low-bit model, loaded.

    Raises:
      ConfigError: a field doesn't fit; it is named, and nothing has been written.
      ValueError, OSError: a file can't be read or doesn't fit.
      KeyboardInterrupt: Ctrl-C came; it names the directory to continue in.
      FloatingPointError: synthesis or fine-tuning diverged.
    """
    given = dict(locals())
    model = os.fspath(model)
    argument = f"w={w},a={a},method={method},preset={preset},seed={seed}"
    settings = _make_config(model, argument, os.fspath(weights or ""), num_classes)
    values: dict[str, Any] = {}
    if weights is not None:
        values["model.weights"] = os.fspath(weights)
    if num_classes is not None:
        values["model.num_classes"] = num_classes
    if real is not None:
        values["samples.real"] = os.fspath(real)
    if evaluate is not None:
        values |= _evaluation_fields(os.fspath(evaluate))
    config_lib.update(settings, values | dict(fields or {}))
    validated = config_lib.validated(settings)
    if not validated.model.weights:
        raise ConfigError(
            f"weights is missing: a file or 'hf://organisation/name' for the model {model!r}"
        )
    if workdir is None:
        place = directory.fresh(Path(model).stem)
    else:
        place = paths.expanded_path(os.fspath(workdir))
    return _run(validated, place, _call(given))


def _evaluation_fields(evaluate: str) -> dict[str, str]:
    if evaluate.startswith(data.TFDS_SCHEME):
        return {"evaluation.dataset": evaluate, "evaluation.split": "validation"}
    return {"evaluation.dataset": data.FOLDER, "evaluation.path": evaluate}


def _call(given: Mapping[str, Any]) -> str:
    """The call of `quantize` that makes a run again, without its directory."""
    defaults = {name: one.default for name, one in inspect.signature(quantize).parameters.items()}
    told = [
        f"{name}={(os.fspath(value) if isinstance(value, os.PathLike) else value)!r}"
        for name, value in given.items()
        if name not in ("model", "workdir") and value != defaults[name]
    ]
    return f"maskaq_jax.quantize({', '.join([repr(os.fspath(given['model'])), *told])})"


def _run(settings: Config, workdir: Path, command: str) -> Quantized:
    run_inputs = dataclasses.replace(inputs.prepare(settings, workdir), command=command)
    with interruption.catch_termination() as is_terminated:
        try:
            measured = run.run(run_inputs, is_terminated, report.write_at_end)
        except interruption.Interrupted:
            told = f"stopped: quantize again with workdir={str(workdir)!r} to continue"
            raise KeyboardInterrupt(told) from None
    model, variables = inputs.load(workdir)
    return Quantized(model, variables, measured, workdir)


def _make_config(model: str, argument: str, weights: str, num_classes: int | None) -> Any:
    """The config of a file, of the model that a config is of, or of any other by its name.

    Of the last, pixels are normalised as published weights of that name, or in that format, are
    trained with, which a run tells.
    """
    if ".py:" in model:
        raise ConfigError(
            f"model {model!r}: what stands behind the colon are arguments of `quantize` itself, as "
            "`w=3`, or fields, as `fields={'synthesis.background': 'black'}`"
        )
    if model.endswith(".py"):
        config = config_files.load(config_files.find(model)).get_config(argument)
        config_lib.check_returned(config)
        return config
    for path in config_files.list_own():
        config = config_files.load(path).get_config(argument)
        if config.model.name == model and not config.model.weights.startswith("embedded:"):
            return config
    common = config_files.load(config_files.find("configs/common.py"))
    usual = torch_import.usual_normalisation(
        model, 1000 if num_classes is None else num_classes, weights
    )
    mean, std = (usual.mean, usual.std) if usual else (None, None)
    if weights and Path(weights).exists():
        with contextlib.suppress(ValueError, OSError):  # told where the weights are read
            said = torch_import.read_companions(weights, lambda _: None).pictures
            mean, std = said.get("mean", mean), said.get("std", std)
    return common.imagenet_config(argument, model=model, weights="", mean=mean, std=std)
