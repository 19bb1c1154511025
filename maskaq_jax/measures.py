"""What a run measures: accuracy on labelled images, or how P and Q agree where there are none."""

from collections.abc import Iterable, Iterator
from typing import Any

from maskaq_jax import data, phases, report
from maskaq_jax.experiment import Experiment
from maskaq_jax.phases import SampleSet


def is_labelled(experiment: Experiment) -> bool:
    """Whether there are images to measure accuracy on."""
    return experiment.evaluation is not None and experiment.model.num_classes > 0


def num_evaluated(experiment: Experiment) -> int:
    """Evaluation images; 0 without a dataset."""
    return 0 if experiment.evaluation is None else len(experiment.evaluation)


def evaluation_batches(experiment: Experiment, reporter: report.Reporter) -> Iterator[Any]:
    """Batches of the dataset, which there must be; tells at the end of images that were broken."""
    config, dataset = experiment.config, experiment.evaluation
    assert dataset is not None
    broken: list[str] = []
    yield from data.batches(dataset, config.pixels, config.evaluation.batch_size, broken.append)
    if broken:
        reporter.message(f"{len(broken)} images could not be read, the first of them {broken[0]}")


def measure_agreement(
    experiment: Experiment, variables: Any, samples: SampleSet, reporter: report.Reporter
) -> dict[str, Any]:
    """How P and Q agree: on the evaluation images, or on the samples where there are none."""
    agreement = phases.make_agreement(experiment.model, experiment.mesh)
    size = experiment.config.evaluation.batch_size
    if experiment.evaluation is None:
        batches: Iterable[Any] = data.sample_batches(samples.images, samples.labels, size)
    else:
        batches = evaluation_batches(experiment, reporter)
    with reporter.phase("evaluation") as advance:
        values = agreement(experiment.params, variables, batches, advance)
    if experiment.model.num_classes == 0:
        del values["agreement"]  # of classes, which there are none of
    return {name: round(value, 4) for name, value in values.items()}
