"""How much work a run is, for the estimate of the time it takes."""

from maskaq_jax import measures, sources
from maskaq_jax.config import SYNTHESIS_METHODS
from maskaq_jax.experiment import Experiment
from maskaq_jax.schedule import Plan

# Rough cost of a unit of each phase (an image, or a step of an image) in forward passes of one
# image; the time estimate needs no more.
WORK_PER_UNIT = {"evaluation": 1.0, "synthesis": 8.0, "finetuning": 8.0}


def until(experiment: Experiment, plan: Plan, step: int) -> float:
    """Work done when that many training steps are; all of the run's for the last one."""
    config = experiment.config
    if step == 0 and plan.num_steps:
        return 0.0
    evaluations = 3 if step == plan.num_steps else 2
    syntheses = 1 + plan.refresh_of(max(0, step - 1))
    if config.method not in SYNTHESIS_METHODS:
        syntheses = 0
    images = sources.num_batches(config) * sources.batch_size(config)
    return (
        WORK_PER_UNIT["evaluation"] * evaluations * measures.num_images(experiment)
        + WORK_PER_UNIT["synthesis"] * syntheses * images * config.synthesis.num_steps
        + WORK_PER_UNIT["finetuning"] * step * config.finetuning.batch_size
    )
