"""How much work a run is, for the estimate of the time it takes."""

from maskaq_jax import batches, measures
from maskaq_jax.config import SYNTHESIS_METHODS
from maskaq_jax.experiment import Experiment
from maskaq_jax.schedule import Plan

# Rough cost of a unit of each phase (an image, or a step of an image) in forward passes of one
# image; the time estimate needs no more.
WORK_PER_UNIT = {"evaluation": 1.0, "synthesis": 8.0, "finetuning": 8.0}


def total(experiment: Experiment, plan: Plan) -> float:
    """All of a run's work."""
    evaluated = sum(measures.images_measured(experiment))
    return _add_up(experiment, evaluated, plan.num_syntheses, plan.num_steps)


def before(experiment: Experiment, plan: Plan, step: int) -> float:
    """Work done when a run continues after that many training steps.

    The samples it continues with are not among it: `batches` tells which of them are kept.
    """
    evaluated, _ = measures.images_measured(experiment)
    return _add_up(experiment, evaluated, plan.refresh_of(step), step)


def _add_up(experiment: Experiment, evaluated: int, syntheses: int, steps: int) -> float:
    config = experiment.config
    if config.method not in SYNTHESIS_METHODS:
        syntheses = 0
    images = batches.num_batches(config) * batches.batch_size(config)
    return (
        WORK_PER_UNIT["evaluation"] * evaluated
        + WORK_PER_UNIT["synthesis"] * syntheses * images * config.synthesis.num_steps
        + WORK_PER_UNIT["finetuning"] * steps * config.finetuning.batch_size
    )
