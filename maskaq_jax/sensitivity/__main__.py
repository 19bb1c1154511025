"""Command line: `python -m maskaq_jax.sensitivity --workdir=RUN [--bits=4x4]`.

Measures on the run's own images, synthetic or whatever its method took; labels are not needed.
Writes `sensitivity.json` and `sensitivity.png` into the run's directory, shows those tensors that
lose most, and ends with the rules that would give 8 bits to a few of them.
"""

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich import progress
from rich.console import Console
from rich.table import Table

from maskaq_jax import models
from maskaq_jax.devices import memory
from maskaq_jax.models import Model, Quantization
from maskaq_jax.quantizers import FULL_PRECISION_BITS
from maskaq_jax.runs import command_line, directory, training_images
from maskaq_jax.runs import inputs as run_inputs
from maskaq_jax.runs.command_line import Parser, refusing
from maskaq_jax.runs.inputs import RunInputs
from maskaq_jax.sensitivity import heat_map
from maskaq_jax.sensitivity.suggestion import suggest_rules
from maskaq_jax.sensitivity.tensors import TensorLoss, count_tensors, measure
from maskaq_jax.storage import paths, whole_files

JSON, PICTURE = directory.SENSITIVITY, "sensitivity.png"

# Half of them calibrate; a ViT-S of 112 px takes a few minutes on two cores then.
_MOST_IMAGES = 96
_ROWS_SHOWN = 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, writes, and shows what came out."""
    parser = Parser(prog="python -m maskaq_jax.sensitivity", description=__doc__.splitlines()[2])
    parser.add_argument("--workdir", required=True, help="directory of the run")
    parser.add_argument(
        "--bits", default="", help="of weights and activations, as 4x4; the run's where left out"
    )
    options = parser.parse_args(arguments)
    memory.keep_freed_memory()
    memory.compute_in_32_bits()
    with refusing():
        inputs = run_inputs.reopen(paths.expanded_path(options.workdir))
        if inputs.model.task != "classification":
            raise ValueError(
                f"the run in {inputs.workdir} is of a model for {inputs.model.task}: what layers "
                "lose is measured of classifiers alone so far"
            )
        model = _at_bits(inputs.model, options.bits)
        images = _read_images(inputs)
        _check_writable(inputs.workdir)
    started = time.monotonic()
    losses = _measure(inputs, model, images)
    _tell(inputs, model, losses, len(images), time.monotonic() - started)


def _at_bits(model: Model, text: str) -> Model:
    """Q at other bits than the run's, where some are given; rules of the run count no more then.

    Raises:
      ValueError: they are no bits, or there is nothing to round.
    """
    assert model.quantization is not None
    if text:
        try:
            bits = models.parse_bits(text)
        except ValueError as error:
            raise ValueError(f"--bits: {error}") from None
        quantization = dataclasses.replace(
            model.quantization, weight_bits=bits.weight, activation_bits=bits.activation, rules=""
        )
        model = model.clone(quantization=quantization)
    if not count_tensors(model):
        full = FULL_PRECISION_BITS
        raise ValueError(f"at {full}x{full} bits nothing is rounded: name others, as --bits=4x4")
    return model


def _read_images(inputs: RunInputs) -> jax.Array:
    """Images from all over those that calibrate: a half to find ranges on, and the other."""
    samples = inputs.config.samples
    num_calibrating = min(samples.calibration_size, samples.num_samples)
    count = min(_MOST_IMAGES, num_calibrating)
    if count < 2:
        raise ValueError(f"the run in {inputs.workdir} has a single image, and two are needed")
    spread = np.linspace(0, num_calibrating - 1, count).round().astype(int)
    # In turn, as a folder of images may be in the order of its classes.
    return jnp.asarray(
        training_images.read_newest(inputs, np.concatenate([spread[::2], spread[1::2]]))
    )


def _check_writable(workdir: Path) -> None:
    for path in (workdir, workdir / JSON, workdir / PICTURE):
        if path.exists() and not os.access(path, os.W_OK):
            raise OSError(f"workdir {workdir}: {path} can't be written to")
        if path != workdir and path.is_dir():
            raise OSError(f"workdir {workdir}: {path} is a folder, not a file")


def _measure(inputs: RunInputs, model: Model, images: jax.Array) -> list[TensorLoss]:
    console = Console(stderr=True)
    count = count_tensors(model)
    console.print(f"rounding each of {count} tensors alone, on {len(images)} images of the run")
    key = jax.random.key(inputs.config.seed)
    with progress.Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("sensitivity", total=count)
        return measure(
            model,
            inputs.params,
            images,
            inputs.config.calibration,
            key,
            on_tensor=lambda: bar.advance(task),
        )


def _tell(
    inputs: RunInputs, model: Model, losses: list[TensorLoss], num_images: int, seconds: float
) -> None:
    """Writes both files, and prints the table and the suggestion."""
    quantization: Any = model.quantization
    suggestion = suggest_rules(losses, quantization)
    num_measured = num_images // 2
    summary = {
        "weight_bits": quantization.weight_bits,
        "activation_bits": quantization.activation_bits,
        "rules": quantization.rules,
        "method": inputs.config.method,
        "ranges": inputs.config.calibration.ranges,
        "num_images": num_measured,
        "seconds": round(seconds, 2),
        "suggested_rules": suggestion,
        "tensors": [_rounded(loss) for loss in losses],
    }
    whole_files.write_json(inputs.workdir / JSON, summary)
    title = (
        f"{_bits(quantization)}, one tensor at a time: of 100 images, those that get another "
        "class; the darker, the further from full precision"
    )
    heat_map.draw(inputs.workdir / PICTURE, losses, models.layer_names(model), title)
    print_table(Console(), losses, quantization, num_measured)
    print(f"all of it: {inputs.workdir / JSON}, {inputs.workdir / PICTURE}")
    if (inputs.workdir / directory.REPORT).is_file():
        print(f"into the report: python -m maskaq_jax.report --workdir={inputs.workdir}")
    if suggestion:
        print("8 bits for what costs most:")
        print(f"--config.quantization.rules={suggestion}")


def print_table(
    console: Console, losses: Sequence[TensorLoss], quantization: Quantization, num_images: int
) -> None:
    """The tensors that lose most."""
    shown = losses[:_ROWS_SHOWN]
    table = Table(
        title=f"{_bits(quantization)}, one tensor at a time: {len(shown)} of {len(losses)}",
        caption=f"against full precision, on {num_images} images",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("layer", no_wrap=True)
    table.add_column("tensor", no_wrap=True)
    for name in ("bits", "agreement %", "divergence"):
        table.add_column(name, justify="right")
    for loss in shown:
        agreement = "-" if loss.agreement is None else f"{loss.agreement:.1f}"
        table.add_row(loss.layer, loss.tensor, str(loss.bits), agreement, f"{loss.divergence:.4f}")
    console.print(table)


def _bits(quantization: Quantization) -> str:
    return f"W{quantization.weight_bits}A{quantization.activation_bits}"


def _rounded(loss: TensorLoss) -> dict[str, Any]:
    """For JSON."""
    agreement = None if loss.agreement is None else round(loss.agreement, 4)
    return loss._asdict() | {"agreement": agreement, "divergence": round(loss.divergence, 6)}


if __name__ == "__main__":
    command_line.end_at_ctrl_c()
    command_line.start(main)
