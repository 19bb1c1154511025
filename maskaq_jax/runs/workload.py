"""How much work a run is, counted in forward passes of an image."""

from maskaq_jax.config import SYNTHESIS_METHODS, Config
from maskaq_jax.runs.inputs import RunInputs
from maskaq_jax.runs.plan import Plan

# Of a unit of each phase.
_PASSES = {"evaluation": 1.0, "synthesis": 8.0, "calibration": 30.0, "finetuning": 8.0}
# Of a step of synthesis that Q has no part in.
_PASSES_OF_P = 3.0


def per_unit(config: Config) -> dict[str, float]:
    """Rough cost of a unit of each phase, an image or a step of an image, in forward passes of one
    image; the time estimate needs no more.
    """
    takes_q = bool(config.synthesis.weights.coupling)
    return _PASSES | ({} if takes_q else {"synthesis": _PASSES_OF_P})


def total(inputs: RunInputs, plan: Plan) -> float:
    """All of a run's work."""
    last = inputs.num_evaluation_images or inputs.config.samples.num_samples
    evaluated = _images_evaluated(inputs, plan, plan.num_steps + 1) + last
    return _add_up(inputs, plan, evaluated, plan.num_syntheses, plan.num_steps)


def before(inputs: RunInputs, plan: Plan, step: int) -> float:
    """Work done when a run continues after that many training steps.

    The samples it continues with are not among it: the store tells which of them are kept.
    """
    evaluated = _images_evaluated(inputs, plan, step)
    return _add_up(inputs, plan, evaluated, plan.refresh_of(step), step)


def _images_evaluated(inputs: RunInputs, plan: Plan, step: int) -> int:
    """By all measurements before those that come when that many training steps are taken."""
    count = inputs.num_evaluation_images if inputs.is_labelled else 0
    # P, the calibrated model if it will be trained, and the comparisons.
    compared = plan.num_comparisons(step) * inputs.config.samples.num_compared
    return count * (1 + bool(step and plan.num_steps)) + compared


def _add_up(inputs: RunInputs, plan: Plan, evaluated: int, syntheses: int, steps: int) -> float:
    config = inputs.config
    if config.method not in SYNTHESIS_METHODS:
        syntheses = 0
    images = plan.num_batches * plan.batch_size
    fitted = config.calibration.num_views if config.calibration.fits else 0
    passes = per_unit(config)
    return (
        passes["evaluation"] * evaluated
        + passes["synthesis"] * syntheses * images * config.synthesis.num_steps
        + passes["calibration"] * fitted
        + passes["finetuning"] * steps * config.finetuning.batch_size
    )
