"""What there is to say of an exported file: its size, and how near it is to the model."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from maskaq_jax import config, data
from maskaq_jax.config import Config
from maskaq_jax.export import agreement, dense_agreement, files, layers
from maskaq_jax.export.formats import Format, Input
from maskaq_jax.models import Model
from maskaq_jax.runs import results
from maskaq_jax.storage.notes import Tell

# Layers are compared on so many images.
_CHECKED_IMAGES = 4
# What has a class in a task, and the task's metric.
_PLACES = {"detection": ("detection tokens", "ap"), "segmentation": ("pixels", "miou")}


class Exported(NamedTuple):
    """A file, and what it was written of.

    Attributes:
      path: of the file.
      file_format: its format.
      model: the low-bit model.
      variables: its variables.
      settings: of its run.
    """

    path: Path
    file_format: Format
    model: Model
    variables: Any
    settings: Config


def write_and_say(exported: Exported, input_name: Input, tell: Tell, checks: bool = False) -> None:
    """Writes a file, and tells what came of it; see `files.write` and `say`."""
    path, file_format, model, variables, settings = exported
    files.write(path, model, variables, settings, file_format, input_name, tell)
    say(exported, tell, checks)


def say(exported: Exported, tell: Tell, checks: bool = False) -> None:
    """Tells the size of a file and, where the run's evaluation images are there, what it computes.

    Args:
      exported: the file.
      tell: is told a line at a time, each as soon as it is known.
      checks: whether to compare it layer by layer, and the model with itself.
    """
    tell(f"wrote {exported.path}: {_size(exported.path, exported.model, exported.variables)}")
    dataset = _evaluation_images(exported.settings, exported.model, tell)
    if dataset is None:
        tell("no evaluation images at hand: agreement with the low-bit model is not measured")
    else:
        try:
            _tell_of_outputs(exported, dataset, tell, checks)
        except OSError as error:  # the file is there, and right, whatever these are
            tell(f"evaluation images can't be read: {error}")
    if checks:
        _tell_of_layers(exported, dataset, tell)


def _tell_of_outputs(exported: Exported, dataset: data.Dataset, tell: Tell, checks: bool) -> None:
    path, file_format, model, variables, settings = exported
    # Thousands of images take minutes.
    tell(f"comparing it with the low-bit model on {len(dataset)} images")
    file = agreement.open_file(path, file_format, settings.pixels)
    own = agreement.outputs_of(model, variables)
    if model.task != "classification":
        found = dense_agreement.measure(file, own, dataset, settings, model)
        tell(_told_of_places(found, model.task))
        return
    itself = [agreement.nudged(own)] if checks and model.num_classes else []
    compared = agreement.measure([file, *itself], own, dataset, settings, model)
    tell(_told(compared[0], model))
    for of_itself in compared[1:]:
        tell(_told_of_itself(of_itself))


def _size(path: Path, model: Any, variables: Any) -> str:
    """Of the file, and beside float32's."""
    written = path.stat().st_size
    whole = 4 * sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    bits = 32 if model.quantization is None else model.quantization.weight_bits
    return (
        f"{written / 1e6:.2f} MB, {written / whole:.3f} of float32's {whole / 1e6:.2f} MB, "
        f"{written / whole * 32 / bits:.2f} times {bits}/32 of it"
    )


def _evaluation_images(settings: Config, model: Model, tell: Tell) -> data.Dataset | None:
    """The run's own; None where it had none, or they are not there any more."""
    source = config.evaluation_source(settings)
    try:
        return None if source is None else source.open(model)
    except (ValueError, OSError) as error:
        tell(f"evaluation images can't be read: {error}")
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
    places, metric = _PLACES[task]
    line = (
        f"same class as the low-bit model at {found.agreement['agreement']:.2f}% of the {places} "
        f"of {found.num_images} images"
    )
    if "box_iou" in found.agreement:
        line += f"; IoU with its boxes {found.agreement['box_iou']:.2f}%"
    if not found.of_file:
        return line
    of_file, of_model = found.of_file[metric], found.of_model[metric]
    title = results.TITLES[metric].short.removesuffix(" %")
    return f"{line}; {title} {of_file:.2f}%, its own {of_model:.2f}%"


def _tell_of_layers(exported: Exported, dataset: data.Dataset | None, tell: Tell) -> None:
    """A line for each rounded activation and product."""
    _, _, model, variables, settings = exported
    if dataset is None:
        shape = (_CHECKED_IMAGES, *model.input_shape)
        images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    else:
        count = min(_CHECKED_IMAGES, len(dataset))
        images = settings.pixels.from_bytes(np.stack([dataset[i][0] for i in range(count)]))
    tell(f"layer by layer on {len(images)} images, each fed with the file's own codes:")
    for layer in layers.compare_layers(model, variables, settings, images):
        tell(f"  {layer.name}: {_found(layer)}")


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
