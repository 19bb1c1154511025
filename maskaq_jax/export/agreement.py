"""How a file's outputs agree with those of the model that it was written of."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from maskaq_jax import data
from maskaq_jax.config import Config
from maskaq_jax.devices import parallel
from maskaq_jax.export import file_outputs
from maskaq_jax.export.formats import Format
from maskaq_jax.export.packed import load_packed
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import Model

# As a share of an image's largest output.
NEAR = 1e-3
# By so much an input is scaled to see how far rounding alone takes a model from itself.
NUDGE = np.float32(1 + 2**-22)
# Outputs of normalised images [B, height, width, channels], as a model returns them.
Outputs = Callable[[np.ndarray], Any]


class Agreement(NamedTuple):
    """What was found on images.

    Attributes:
      num_images: how many.
      same_class: share of images that both give the same class; of a model without classes, 0.
      near: share of images whose outputs all lie within `NEAR` of the largest one's size.
      cosine: mean of the outputs.
      top1: of the file, among the images that have labels; None where none has.
      top1_of_model: the same of the model.
    """

    num_images: int
    same_class: float
    near: float
    cosine: float
    top1: float | None
    top1_of_model: float | None


def open_file(path: Path, file_format: Format, pixels: Pixels) -> Outputs:
    """What a file computes, on the CPU: onnxruntime, LiteRT, or JAX of packed codes."""
    if file_format == "safetensors":
        return outputs_of(*load_packed(path))
    if file_format == "litert":
        return open_litert(path.read_bytes(), pixels)
    return open_onnx(path.read_bytes(), pixels)


def open_onnx(content: bytes, pixels: Pixels) -> Outputs:
    """What an ONNX file computes, by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]

    def compute(images: np.ndarray) -> Any:
        given = as_input(images, taken.name, pixels)
        return file_outputs.of_model(
            dict(zip(names, session.run(names, {taken.name: given}), strict=True))
        )

    return compute


def open_litert(content: bytes, pixels: Pixels) -> Outputs:
    """What a LiteRT file computes, by its interpreter on the CPU, one image after the other."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_content=content).get_signature_runner()
    (name,) = run.get_input_details()

    def compute(images: np.ndarray) -> np.ndarray:
        given = as_input(images, name, pixels)
        return np.concatenate([run(**{name: one[None]})["logits"] for one in given])

    return compute


def as_input(images: np.ndarray, input_name: str, pixels: Pixels) -> np.ndarray:
    """Normalised images [B, height, width, channels] as a file takes them."""
    if input_name == "pixels":
        return np.rint(255 * pixels.denormalise(images)).astype(np.uint8)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def outputs_of(model: Model, variables: Any) -> Outputs:
    """What a model computes."""
    apply = jax.jit(lambda variables, images: model.apply(variables, images)[0])
    return lambda images: jax.tree.map(np.asarray, apply(variables, images))


def nudged(outputs: Outputs) -> Outputs:
    """The same outputs of images scaled by `NUDGE`, a few units in the last place of float32.

    Where a value lies beside a tie, this rounds it to the other side, as any other order of a sum
    may: no file can be expected to agree with a model better than the model does with itself.
    """
    return lambda images: outputs(images * NUDGE)


def read_batches(
    dataset: data.Dataset, settings: Config, model: Model
) -> Iterator[data.LabelledBatch]:
    """Batches of a run's evaluation images, for one device."""
    mesh = parallel.make_mesh(jax.local_devices()[:1])
    rows = parallel.rows_of_batches(len(dataset), settings.evaluation.batch_size, mesh)
    return data.read_batches(
        *(dataset, settings.pixels, model.input_shape, rows), label_shape=data.label_shape(model)
    )


def measure(
    compared: Sequence[Outputs], own: Outputs, dataset: data.Dataset, settings: Config, model: Model
) -> list[Agreement]:
    """Compares each of them with the model on labelled images, in one pass over these.

    Args:
      compared: of `open_file`, or `nudged` ones of the model.
      own: of `outputs_of`.
      dataset: of `config.evaluation_source`.
      settings: of the run.
      model: Q.

    Raises:
      OSError: no image can be read.
    """
    found: list[list[np.ndarray]] = [[] for _ in compared]
    expected, labels = [], []
    for batch in read_batches(dataset, settings, model):
        for outputs, of_batches in zip(compared, found, strict=True):
            of_batches.append(outputs(batch.images)[batch.valid])
        expected.append(own(batch.images)[batch.valid])
        labels.append(batch.labels[batch.valid])
    wanted = np.concatenate(expected), np.concatenate(labels)
    return [compare(np.concatenate(of_batches), *wanted) for of_batches in found]


def compare(found: np.ndarray, expected: np.ndarray, labels: np.ndarray) -> Agreement:
    """Compares outputs [N, classes].

    Args:
      found: of the file.
      expected: of the model.
      labels: [N], `data.UNKNOWN_LABEL` where there is none.

    Raises:
      OSError: there are no images.
    """
    if not len(found):
        raise OSError("no evaluation image could be read")
    classes, expected_classes = found.argmax(axis=1), expected.argmax(axis=1)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    scales = np.maximum(np.abs(expected).max(axis=1), 1e-30)
    distances = np.abs(found - expected).max(axis=1) / scales
    is_labelled = labels != data.UNKNOWN_LABEL
    accuracies: list[float | None] = [None, None]
    if is_labelled.any():
        accuracies = [
            float(np.mean(own[is_labelled] == labels[is_labelled]))
            for own in (classes, expected_classes)
        ]
    return Agreement(
        num_images=len(found),
        same_class=float(np.mean(classes == expected_classes)),
        near=float(np.mean(distances <= NEAR)),
        cosine=float(np.mean((found * expected).sum(axis=1) / np.maximum(lengths, 1e-30))),
        top1=accuracies[0],
        top1_of_model=accuracies[1],
    )
