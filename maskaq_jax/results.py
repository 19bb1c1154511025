"""What `results.json` says of a run."""

from typing import Any

import jax

from maskaq_jax import batches, measures, run_files
from maskaq_jax.config import Config
from maskaq_jax.experiment import Experiment


def summarise(
    experiment: Experiment,
    top1: dict[str, float | None],
    num_evaluated: int,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The settings that make a run comparable, and what came of them.

    Args:
      experiment: of the run.
      top1: accuracies in percent; None where there were no labelled images.
      num_evaluated: images that accuracy, or agreement, was measured on.
      seconds: of each phase.
    """
    config = experiment.config
    num_images = measures.num_images(experiment) or num_evaluated
    return {
        **{
            f"{name}_top1": None if value is None else round(value, 4)
            for name, value in top1.items()
        },
        "weight_bits": config.quantization.weight_bits,
        "activation_bits": config.quantization.activation_bits,
        "method": config.method,
        "seed": config.seed,
        "num_samples": config.samples.num_samples,
        "synthesis_steps": config.synthesis.num_steps,
        "epochs": config.finetuning.epochs,
        "evaluation": _evaluation_name(config),
        "num_evaluated": num_evaluated,
        "broken_images": num_images - num_evaluated,
        "redrawn_images": batches.count_redrawn(experiment.workdir / run_files.SAMPLES),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "device": f"{experiment.mesh.size} x {experiment.mesh.devices.flat[0].device_kind}",
        "jax": jax.__version__,
    }


def lost_accuracy(results: dict[str, Any]) -> bool:
    """Whether training left the calibrated model worse than it was, where that was measured."""
    before, after = results["calibrated_top1"], results["quantized_top1"]
    return before is not None and after < before


def _evaluation_name(config: Config) -> str:
    """What `results.json` calls the evaluation images."""
    evaluation = config.evaluation
    if not evaluation.dataset:
        return "samples"
    return " ".join(filter(None, (evaluation.dataset, evaluation.path, evaluation.split)))
