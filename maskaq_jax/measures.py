"""What a run measures: accuracy on labelled images, or how P and Q agree where there are none."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from maskaq_jax import data, interruption, memory, parallel, phases, report
from maskaq_jax.experiment import Experiment
from maskaq_jax.phases import Advance, ReadImages

# Broken images that are named.
_SHOWN = 5


def is_labelled(experiment: Experiment) -> bool:
    """Whether there are images to measure accuracy on."""
    return experiment.evaluation is not None and experiment.model.num_classes > 0


def num_images(experiment: Experiment) -> int:
    """Evaluation images, broken ones among them; 0 without a dataset."""
    return 0 if experiment.evaluation is None else len(experiment.evaluation)


def images_measured(experiment: Experiment) -> tuple[int, int]:
    """Of all measurements together: those before training, and those after it."""
    if experiment.evaluation is None:
        return 0, experiment.config.samples.num_samples
    count = num_images(experiment)
    return (2 * count if is_labelled(experiment) else 0), count


def measure_accuracy(
    experiment: Experiment,
    reporter: report.Reporter,
    clock: interruption.Clock,
    accuracy: Callable[..., tuple[float, int]],
    variables: Any,
) -> tuple[float | None, int]:
    """Top-1 in percent, by a function of `phases.make_accuracy`, and of how many images.

    None and 0 without labelled images.
    """
    if not is_labelled(experiment):
        return None, 0
    with _interruptible(reporter, clock) as advance:
        return accuracy(variables, _evaluation_batches(experiment, reporter), advance)


def measure_agreement(
    experiment: Experiment,
    variables: Any,
    read_samples: ReadImages,
    reporter: report.Reporter,
    clock: interruption.Clock,
) -> tuple[dict[str, float], int]:
    """How P and Q agree, and on how many images: of evaluation, or samples where there are none."""
    config = experiment.config
    agreement = phases.make_agreement(experiment.model, experiment.mesh)
    if experiment.evaluation is None:
        shares = parallel.share_batches(
            config.samples.num_samples, config.evaluation.batch_size, experiment.mesh
        )
        batches: Iterable[Any] = data.sample_batches(read_samples, shares)
    else:
        batches = _evaluation_batches(experiment, reporter)
    with _interruptible(reporter, clock) as advance:
        values, count = agreement(experiment.params, variables, batches, advance)
    if experiment.model.num_classes == 0:
        del values["agreement"]  # of classes, which there are none of
    return {name: round(value, 4) for name, value in values.items()}, count


def _evaluation_batches(experiment: Experiment, reporter: report.Reporter) -> Iterator[Any]:
    """Batches of the dataset, which there must be; tells at the end of images that were broken."""
    config, dataset = experiment.config, experiment.evaluation
    assert dataset is not None
    shares = parallel.share_batches(len(dataset), config.evaluation.batch_size, experiment.mesh)
    broken: list[str] = []
    shape = experiment.model.input_shape
    yield from data.batches(dataset, config.pixels, shape, shares, broken.append)
    if broken:
        listed = "; ".join(broken[:_SHOWN]) + ("; ..." if len(broken) > _SHOWN else "")
        reporter.message_of_process(f"{len(broken)} images could not be read: {listed}")


@contextlib.contextmanager
def _interruptible(reporter: report.Reporter, clock: interruption.Clock) -> Iterator[Advance]:
    """The evaluation phase, which stops where it is asked to: it has nothing to save."""
    with reporter.phase("evaluation") as advance:

        def advance_or_stop(units: int) -> None:
            advance(units)
            if clock.is_stopping():
                raise interruption.Interrupted

        yield advance_or_stop
    memory.return_freed_memory()
