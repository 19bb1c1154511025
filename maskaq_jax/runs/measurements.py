"""What a run measures: figures on labelled images, or how P and Q agree where there are none.

Figures are those of the model's task: top-1, average precision or intersection over union.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any, cast

from maskaq_jax import data
from maskaq_jax.data.batches import LabelledBatch, ReadImages
from maskaq_jax.devices import memory, parallel
from maskaq_jax.evaluation.agreement import (
    Agreement,
    DetectionAgreement,
    MapAgreement,
    SegmentationAgreement,
)
from maskaq_jax.evaluation.classification import Classification, Confidence
from maskaq_jax.evaluation.detection import Detection
from maskaq_jax.evaluation.evaluator import Evaluator
from maskaq_jax.evaluation.loop import Advance, EvaluationLoop, Measured
from maskaq_jax.evaluation.segmentation import Segmentation
from maskaq_jax.models import full_precision
from maskaq_jax.models.protocol import Task
from maskaq_jax.runs.session import Session

# Broken images that are named.
_SHOWN = 5
# By how many points P's accuracy may stay below its confidence. Classifiers that are not
# calibrated, and images of another kind than they were trained on, make for some twenty.
_MOST_OVERCONFIDENT = 30.0

_AGREEMENTS: dict[Task, type[Evaluator]] = {
    "classification": Agreement,
    "detection": DetectionAgreement,
    "segmentation": SegmentationAgreement,
    "features": MapAgreement,
}


def agreement_evaluator(task: Task) -> Evaluator:
    """What compares two models of a task."""
    return _AGREEMENTS[task]()


def figures_evaluator(task: Task, dataset: data.Dataset) -> Evaluator:
    """What measures a model of a task on labelled images.

    Args:
      task: of the model, one whose datasets have labels.
      dataset: which is asked for names of classes, and what to detect.
    """
    if task == "detection":
        return Detection(cast(data.BoxDataset, dataset))
    if task == "segmentation":
        return Segmentation(cast(data.NamedClasses, dataset).class_names)
    return Classification()


class Measurements:
    """Measures P and Q of a session on its evaluation images; each program is compiled once."""

    def __init__(self, session: Session):
        """Compiles nothing yet."""
        self._session = session

    def accuracy_of_p(self) -> Measured | None:
        """Figures of the full-precision model; None without labelled images."""
        inputs = self._session.inputs
        if not inputs.is_labelled:
            return None
        measured = self._evaluate(self._loop_of_p, {"params": inputs.params})
        if "confidence" in measured.figures:
            self._warn_of_labels(measured.figures["top1"], measured.figures["confidence"])
        return measured

    def accuracy_of_q(self, variables: Any) -> Measured | None:
        """Figures of the low-bit model; None without labelled images."""
        is_labelled = self._session.inputs.is_labelled
        return self._evaluate(self._loop_of_q, variables) if is_labelled else None

    def agreement(self, variables: Any, read_samples: ReadImages) -> Measured:
        """How P and Q agree on the images of evaluation, or on samples where there are none.

        Args:
          variables: of Q.
          read_samples: the images trained on.
        """
        inputs = self._session.inputs
        if inputs.evaluation is None:
            batches = self._sample_batches(read_samples, range(inputs.config.samples.num_samples))
        else:
            batches = self._evaluation_batches(inputs.evaluation)
        return self._agreement(variables, batches)

    def distance(self, variables: Any, read_samples: ReadImages) -> dict[str, float]:
        """How far Q is from P on the samples that are held out, or on some that it is trained on.

        Args:
          variables: of Q.
          read_samples: images by number, the same ones for all that is compared.

        Returns:
          `distance`: the mean divergence of Q's class probabilities from P's, in nats, or 1 - the
          cosine of their features where there are no classes, and of boxes 1 - their IoU besides;
          and what else the evaluator of agreement finds.
        """
        samples = self._session.inputs.config.samples
        numbers = range(samples.num_samples - samples.num_compared, samples.num_samples)
        figures = self._agreement(variables, self._sample_batches(read_samples, numbers)).figures
        return {"distance": _distance(figures), **figures}

    def _agreement(self, variables: Any, batches: Iterable[LabelledBatch]) -> Measured:
        inputs = self._session.inputs
        with self._interruptible() as advance:
            both = {"p": {"params": inputs.params}, "q": variables}
            figures, num_images = self._loop_of_both.run(both, batches, advance)
        if inputs.model.task == "classification" and inputs.model.num_classes < 2:
            del figures["agreement"], figures["divergence"]  # of classes, which there are none of
        return Measured(figures, num_images)

    def _sample_batches(self, read_samples: ReadImages, numbers: range) -> Iterator[LabelledBatch]:
        inputs = self._session.inputs
        rows = parallel.rows_of_batches(
            len(numbers), inputs.config.evaluation.batch_size, inputs.mesh
        )
        return data.sample_batches(lambda places: read_samples(places + numbers.start), rows)

    @functools.cached_property
    def _loop_of_both(self) -> EvaluationLoop:
        inputs = self._session.inputs
        return EvaluationLoop(agreement_evaluator(inputs.model.task), inputs.model, inputs.mesh)

    @functools.cached_property
    def _loop_of_p(self) -> EvaluationLoop:
        inputs = self._session.inputs
        is_classifier = inputs.model.task == "classification"
        evaluator = Confidence() if is_classifier else self._make_evaluator()
        return EvaluationLoop(evaluator, full_precision(inputs.model), inputs.mesh)

    @functools.cached_property
    def _loop_of_q(self) -> EvaluationLoop:
        inputs = self._session.inputs
        return EvaluationLoop(self._make_evaluator(), inputs.model, inputs.mesh)

    def _make_evaluator(self) -> Evaluator:
        inputs = self._session.inputs
        assert inputs.evaluation is not None
        return figures_evaluator(inputs.model.task, inputs.evaluation)

    def _evaluate(self, loop: EvaluationLoop, variables: Any) -> Measured:
        dataset = self._session.inputs.evaluation
        assert dataset is not None
        with self._interruptible() as advance:
            return loop.run(variables, self._evaluation_batches(dataset), advance)

    def _warn_of_labels(self, top1: float, confidence: float) -> None:
        """A model that is sure, and mostly wrong, was hardly asked what it was trained for."""
        if confidence - top1 <= _MOST_OVERCONFIDENT:
            return
        evaluation = self._session.inputs.config.evaluation
        about_order = (
            f" (config.evaluation.order is {evaluation.order!r}: 'name' sorts folders as "
            "torchvision does, 'number' sorts numbers by their value, 'file' reads their order)"
        )
        self._session.progress.warn(
            f"the full-precision model is right on {top1:.1f}% of the images, but gives its "
            f"classes {confidence:.1f}% on average: labels may be in another order than the "
            f"model's classes{about_order if evaluation.dataset == data.FOLDER else ''}, or "
            "pixels prepared otherwise than in its training (config.pixels, "
            "config.evaluation.preprocessing)"
        )

    def _evaluation_batches(self, dataset: data.Dataset) -> Iterator[LabelledBatch]:
        """Batches of the dataset; tells at the end of images that were broken."""
        inputs = self._session.inputs
        rows = parallel.rows_of_batches(
            len(dataset), inputs.config.evaluation.batch_size, inputs.mesh
        )
        broken: list[str] = []
        shape, label_shape = inputs.model.input_shape, data.label_shape(inputs.model)
        yield from data.read_batches(
            dataset, inputs.config.pixels, shape, rows, broken.append, label_shape
        )
        if broken:
            listed = "; ".join(broken[:_SHOWN]) + ("; ..." if len(broken) > _SHOWN else "")
            self._session.progress.message_of_process(
                f"{len(broken)} images could not be read: {listed}"
            )

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[Advance]:
        """The evaluation phase, which stops where it is asked to: it has nothing to save."""
        with self._session.progress.phase("evaluation") as advance:

            def advance_or_stop(units: int) -> None:
                advance(units)
                self._session.clock.stop_if_asked()

            yield advance_or_stop
        memory.return_freed_memory()


def _distance(figures: dict[str, float]) -> float:
    """From what an evaluator of agreement finds."""
    if "divergence" not in figures:
        return 1 - figures["feature_cosine"]
    return figures["divergence"] + 1 - figures.get("box_iou", 100) / 100
