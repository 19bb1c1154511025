"""How the file of a detector, segmenter or pyramid agrees with its model, in its task's terms."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Self, cast

import jax

from maskaq_jax import data
from maskaq_jax.config import Config
from maskaq_jax.evaluation.evaluator import Counts, Evaluator
from maskaq_jax.export.agreement import Outputs, read_batches
from maskaq_jax.models import Model
from maskaq_jax.runs import inputs, measurements

Figures = dict[str, float]


class DenseAgreement(NamedTuple):
    """What was found on images.

    Attributes:
      num_images: how many.
      agreement: of the file with the model, as `evaluation.agreement` has a Q's with its P.
      of_file: figures of the file by the evaluator of its task; empty where nothing is labelled.
      of_model: the same of the model.
    """

    num_images: int
    agreement: Figures
    of_file: Figures
    of_model: Figures


@dataclasses.dataclass(frozen=True)
class _Computed:
    """For a model whose outputs are there: they are its variables, and evaluators compare them."""

    input_shape: tuple[int, int, int]

    def apply(self, variables: Any, images: Any) -> tuple[Any, dict]:
        """The variables themselves."""
        del images
        return variables, {}

    def clone(self, **changes: Any) -> Self:
        """The same, since it rounds nothing."""
        del changes
        return self


def measure(
    file: Outputs, own: Outputs, dataset: data.Dataset, settings: Config, model: Model
) -> DenseAgreement:
    """Compares them on images.

    Args:
      file: of `agreement.open_file`.
      own: of `agreement.outputs_of`.
      dataset: of `config.evaluation_source`.
      settings: of the run.
      model: Q.

    Raises:
      OSError: no image can be read.
    """
    evaluators = [measurements.agreement_evaluator(model.task)]
    if inputs.tells_classes_apart(model):
        evaluators += 2 * [measurements.figures_evaluator(model.task, dataset)]
    count_all = [_counting(evaluator, model) for evaluator in evaluators]
    counts: list[list[Counts]] = [[] for _ in evaluators]
    for batch in read_batches(dataset, settings, model):
        found, expected = file(batch.images), own(batch.images)
        compared = ({"p": expected, "q": found}, found, expected)
        for outputs, count, own_counts in zip(compared, count_all, counts, strict=False):
            own_counts.append(jax.device_get(count(outputs, batch)))
    num_images = sum(int(count["images"]) for count in counts[0])
    if not num_images:
        raise OSError("no evaluation image could be read")
    figures = [one.finish(own_counts) for one, own_counts in zip(evaluators, counts, strict=True)]
    agreement, of_file, of_model = (*figures, {}, {})[:3]
    return DenseAgreement(num_images, agreement, of_file, of_model)


def _counting(evaluator: Evaluator, model: Model) -> Callable[[Any, Any], Counts]:
    """What an evaluator counts of outputs and a batch."""
    computed = cast(Model, _Computed(model.input_shape))
    return jax.jit(lambda outputs, batch: evaluator.count(computed, outputs, batch))
