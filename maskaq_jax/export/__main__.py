"""Command line: `python -m maskaq_jax.export --workdir=RUN [--format=onnx|litert|safetensors]`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskaq_jax.devices import memory
from maskaq_jax.export import files, formats
from maskaq_jax.runs import command_line
from maskaq_jax.runs.command_line import Parser, refusing

# Layers are compared on so many images.
_CHECKED_IMAGES = 4
# What has a class in a task, and the name and title of the task's metric.
_PLACES = {
    "detection": ("detection tokens", "ap", "AP"),
    "segmentation": ("pixels", "miou", "mIoU"),
}


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
    from maskaq_jax.export import agreement, dense_agreement
    from maskaq_jax.runs import directory, inputs

    model, variables = inputs.load(workdir)
    settings = directory.read_settings(workdir)
    files.write(path, model, variables, settings, file_format, input_name, tell=print)
    print(f"wrote {path}: {_size(path, model, variables)}", flush=True)
    dataset = _evaluation_images(settings, model)
    if dataset is None:
        print("no evaluation images at hand: agreement with the low-bit model is not measured")
    else:
        file = agreement.open_file(path, file_format, settings.pixels)
        own = agreement.outputs_of(model, variables)
        on = dataset, settings, model
        if model.task == "classification":
            itself = [agreement.nudged(own)] if checks and model.num_classes else []
            of_file, *of_itself = agreement.measure([file, *itself], own, *on)
            print(_told(of_file, model), *map(_told_of_itself, of_itself), sep="\n", flush=True)
        else:
            print(_told_of_places(dense_agreement.measure(file, own, *on), model.task), flush=True)
    if checks:
        _print_layers(model, variables, settings, dataset)


def _size(path: Path, model: Any, variables: Any) -> str:
    """Of the file, and beside float32's."""
    import jax

    written = path.stat().st_size
    whole = 4 * sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    bits = 32 if model.quantization is None else model.quantization.weight_bits
    return (
        f"{written / 1e6:.2f} MB, {written / whole:.3f} of float32's {whole / 1e6:.2f} MB, "
        f"{written / whole * 32 / bits:.2f} times {bits}/32 of it"
    )


def _evaluation_images(settings: Any, model: Any) -> Any:
    """The run's own; None where it had none, or they are not there any more."""
    from maskaq_jax import config

    source = config.evaluation_source(settings)
    try:
        return source and source.open(model)
    except (ValueError, OSError) as error:
        print(f"evaluation images can't be read: {error}", flush=True)
        return None


def _told(found: Any, model: Any) -> str:
    """A line of what was measured."""
    near = f"; outputs within 0.1% of the largest on {100 * found.near:.2f}%"
    if not model.num_classes:
        return (
            f"cosine with the low-bit model's features on {found.num_images} images: "
            f"{found.cosine:.5f}{near}"
        )
    line = (
        f"same class as the low-bit model on {found.num_images} images: "
        f"{100 * found.same_class:.2f}%{near}"
    )
    if found.top1 is None:
        return line
    return f"{line}; top-1 {100 * found.top1:.2f}%, its own {100 * found.top1_of_model:.2f}%"


def _told_of_itself(found: Any) -> str:
    """A line of how far rounding alone takes a model from itself."""
    return (
        f"same class as itself, its input scaled by 1 + 2^-22: {100 * found.same_class:.2f}%; "
        f"outputs within 0.1% of the largest on {100 * found.near:.2f}%"
    )


def _told_of_places(found: Any, task: str) -> str:
    """A line of what was measured of a detector, a segmenter or a pyramid."""
    if task == "features":
        cosine = found.agreement["feature_cosine"]
        return f"cosine with the low-bit model's maps on {found.num_images} images: {cosine:.5f}"
    places, metric, title = _PLACES[task]
    line = (
        f"same class as the low-bit model at {found.agreement['agreement']:.2f}% of the {places} "
        f"of {found.num_images} images"
    )
    if "box_iou" in found.agreement:
        line += f"; IoU with its boxes {found.agreement['box_iou']:.2f}%"
    if not found.of_file:
        return line
    return f"{line}; {title} {found.of_file[metric]:.2f}%, its own {found.of_model[metric]:.2f}%"


def _print_layers(model: Any, variables: Any, settings: Any, dataset: Any) -> None:
    """A line for each rounded activation and product."""
    import numpy as np

    from maskaq_jax.export import layers

    if dataset is None:
        shape = (_CHECKED_IMAGES, *model.input_shape)
        images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    else:
        count = min(_CHECKED_IMAGES, len(dataset))
        images = settings.pixels.from_bytes(np.stack([dataset[i][0] for i in range(count)]))
    print(f"layer by layer on {len(images)} images, each fed with the file's own codes:")
    for layer in layers.compare_layers(model, variables, settings, images):
        print(f"  {layer.name}: {_found(layer)}")


def _found(layer: Any) -> str:
    """What was found of one of `layers.compare_layers`."""
    if layer.kind == "product":
        return f"product within {layer.largest:.1e} of its largest value"
    if layer.same == 1:
        return "all codes the same"
    return (
        f"{100 * layer.same:.4f}% of codes the same, others {layer.largest:.0f} apart and "
        f"{layer.from_tie:.1e} steps from a tie"
    )


if __name__ == "__main__":
    command_line.end_at_ctrl_c()
    command_line.start(main)
