"""Command line: `python -m maskaq_jax.export --workdir=RUN [--format=onnx|litert|safetensors]`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskaq_jax.devices import memory
from maskaq_jax.export import formats
from maskaq_jax.runs import command_line
from maskaq_jax.runs.command_line import Parser, refusing


def main(arguments: Sequence[str] | None = None) -> None:
    """Exports, and says what came of it."""
    logging.getLogger("absl").setLevel(logging.FATAL)  # Orbax warns of what it only reads.
    options = _parser().parse_args(arguments)
    memory.compute_in_32_bits()
    out = None if options.out is None else Path(options.out).expanduser()
    with refusing():
        file_format = options.format or (formats.format_of(out) if out else "onnx")
        workdir = Path(options.workdir).expanduser()
        path = out or workdir / f"model{formats.ENDINGS[file_format]}"
        formats.check_name(path, file_format)
        _check_options(options, file_format)
        _export(workdir, path, file_format, options.input, options.check)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m maskaq_jax.export",
        description="Writes the low-bit model of a finished run to a file of integers.",
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, help="directory of the run")
    parser.add_argument(
        "--format",
        choices=formats.FORMATS,
        help="onnx, which runtimes execute (the default); litert, for phones and small devices; or "
        "safetensors, packed codes for JAX",
    )
    parser.add_argument("--out", help="the file; model.onnx in the run's directory if left out")
    parser.add_argument(
        "--input",
        choices=formats.INPUTS,
        default="pixel_values",
        help="what a file for runtimes takes: pixel_values [B, C, H, W] float32, normalised, or "
        "pixels [B, H, W, C] uint8",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare an ONNX file with JAX layer by layer, and the model with itself",
    )
    return parser


def _check_options(options: Any, file_format: formats.Format) -> None:
    formats.check_input(options.input, file_format)
    if file_format != "onnx" and options.check:
        raise ValueError(f"--check is of --format=onnx, not of {file_format}")


def _export(
    workdir: Path, path: Path, file_format: formats.Format, input_name: formats.Input, checks: bool
) -> None:
    # The directory tells whether there is a run, before the file's place is looked at.
    from maskaq_jax.export import summary
    from maskaq_jax.runs import directory, inputs

    model, variables = inputs.load(workdir)
    settings = directory.read_settings(workdir)
    exported = summary.Exported(path, file_format, model, variables, settings)
    summary.write_and_say(exported, input_name, _print_now, checks)


def _print_now(line: str) -> None:
    """Prints a line that the next one may be long in following."""
    print(line, flush=True)


if __name__ == "__main__":
    command_line.end_at_ctrl_c()
    command_line.start(main)
