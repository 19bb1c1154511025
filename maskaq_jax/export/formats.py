"""What can be written."""

from pathlib import Path
from typing import Literal, get_args

from maskaq_jax.schema import ConfigError

Format = Literal["onnx", "safetensors", "litert"]
Input = Literal["pixel_values", "pixels"]

FORMATS: tuple[Format, ...] = get_args(Format)
INPUTS: tuple[Input, ...] = get_args(Input)

# What a file's name ends with.
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "safetensors": ".safetensors", "litert": ".tflite"}
# Modules that a format takes, which the extra of its name installs.
PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime"),
    "safetensors": (),
    "litert": ("litert_converter", "ai_edge_litert"),
}


def format_of(path: Path) -> Format:
    """The format that a file's name asks for.

    Raises:
      ConfigError: its ending is that of none.
    """
    file_format = _format_by_ending(path)
    if file_format is None:
        raise ConfigError(
            f"{path} ends as no file of ours: name one of {', '.join(FORMATS)} by --format, or end "
            f"it in {', '.join(ENDINGS.values())}"
        )
    return file_format


def check_name(path: Path, file_format: Format) -> None:
    """Raises `ConfigError` where a file would have the ending of another format than its own."""
    other = _format_by_ending(path)
    if other not in (None, file_format):
        raise ConfigError(
            f"{path} ends as a file of {other}, and --format is {file_format}: leave --format "
            f"out, or end it in {ENDINGS[file_format]}"
        )


def _format_by_ending(path: Path) -> Format | None:
    by_ending = {ending: file_format for file_format, ending in ENDINGS.items()}
    return by_ending.get(path.suffix)


def check_input(input_name: str, file_format: Format) -> None:
    """Raises `ConfigError` unless a file of this format can take that."""
    if input_name not in INPUTS:
        raise ConfigError(
            f"input_name (--input) must be {' or '.join(map(repr, INPUTS))}, got {input_name!r}"
        )
    if file_format == "safetensors" and input_name == "pixels":
        raise ConfigError(
            "input_name (--input) 'pixels' is of files for runtimes, not of safetensors: leave it "
            "out, or name a file that ends in .onnx or .tflite"
        )
