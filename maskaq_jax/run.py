"""The whole algorithm on one page.

calibrate -> [ synthesize -> fine-tune ... ] every refresh -> evaluate -> save
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskaq_jax import (
    calibration,
    checkpoint,
    finetune,
    measures,
    phases,
    randomness,
    report,
    sources,
)
from maskaq_jax.config import SYNTHESIS_METHODS, Config
from maskaq_jax.experiment import Experiment

# Rough cost of a unit of each phase (an image, or a step of an image) in forward passes of one
# image; the time estimate needs no more.
_WORK = {"evaluation": 1.0, "synthesis": 8.0, "finetuning": 8.0}


def run(experiment: Experiment) -> dict[str, Any]:
    """Quantizes P without data and writes `results.json`, which it returns.

    A run that was stopped continues from its newest checkpoint.
    """
    config, model, mesh = experiment.config, experiment.model, experiment.mesh
    params, epochs = experiment.params, config.finetuning.epochs
    key = jax.random.key(config.seed)
    accuracy_of_p = phases.make_accuracy(model.clone(quantization=None), mesh)
    accuracy_of_q = phases.make_accuracy(model, mesh)
    init_state, train_epoch = phases.make_finetuning(
        model, finetune.Spec(config.finetuning, config.pixels), config.samples.num_samples, mesh
    )
    with (
        report.Reporter(experiment.workdir, _WORK, _work_until(experiment, epochs)) as reporter,
        checkpoint.open_manager(experiment.workdir / "checkpoints") as checkpoints,
    ):
        make_samples = sources.make_source(experiment, key, reporter)
        if experiment.evaluation is None:
            reporter.message(
                "no evaluation dataset (config.evaluation): instead of accuracy, the agreement of "
                "the quantized with the full-precision model on the samples will be reported"
            )

        def measure(accuracy: Any, variables: Any) -> float | None:
            if not measures.is_labelled(experiment):
                return None
            with reporter.phase("evaluation") as advance:
                return accuracy(
                    variables, measures.evaluation_batches(experiment, reporter), advance
                )

        def save(epoch: int) -> None:
            progress = {"top1": top1, "seconds": reporter.seconds}
            checkpoint.save(checkpoints, epoch, _to_trees(state), progress)

        # Synthesis couples P with Q, so Q needs quantizers before there is an image: noise gives
        # the first ones.
        variables = _calibrated(experiment, sources.draw_noise(experiment, key))
        state = init_state(variables)
        restored = checkpoint.restore(checkpoints, _to_trees(state))
        if restored is None:
            top1 = {"fp": measure(accuracy_of_p, {"params": params})}
            sample_set = make_samples(0, variables)
            if config.samples.calibration == "synthetic":
                variables = _calibrated(experiment, sample_set.images)
            top1["calibrated"] = measure(accuracy_of_q, variables)
            first_epoch, state = 0, init_state(variables)
            save(0)
        else:
            first_epoch, trees, progress = restored
            state, top1, sample_set = _from_trees(trees), progress["top1"], None
            reporter.resume(progress["seconds"], _work_until(experiment, first_epoch))
            reporter.message(f"continuing after epoch {first_epoch} of {epochs}")

        saved_at = time.monotonic()
        for epoch in range(first_epoch, epochs):
            if sample_set is None or (epoch > 0 and _is_refresh(config, epoch)):
                sample_set = make_samples(_refresh_number(config, epoch), state.variables)
            with reporter.phase("finetuning") as advance:
                state, terms = train_epoch(
                    state, epoch, sample_set, params, randomness.named_key(key, "finetune"), advance
                )
            reporter.metrics("finetuning", epoch, terms)
            is_due = time.monotonic() - saved_at >= config.checkpoint_seconds
            if is_due or epoch + 1 == epochs:
                save(epoch + 1)
                saved_at = time.monotonic()

        top1["quantized"] = measure(accuracy_of_q, state.variables)
        results = _results(experiment, top1, reporter.seconds)
        if not measures.is_labelled(experiment):
            if sample_set is None:
                last = _refresh_number(config, max(0, epochs - 1))
                sample_set = make_samples(last, state.variables)
            variables = state.variables
            results |= measures.measure_agreement(experiment, variables, sample_set, reporter)
        report.write_json(experiment.workdir / "results.json", results)
        report.print_results(reporter.console, results)
    return results


def _calibrated(experiment: Experiment, images: np.ndarray) -> dict[str, Any]:
    """Q's variables with P's weights and quantizers initialised on images."""
    params = experiment.params
    images = images[: experiment.config.samples.calibration_size]
    quant = calibration.calibrate(experiment.model, params, jnp.asarray(images))
    return {"params": params, "quant": quant}


def _to_trees(state: finetune.State) -> dict[str, Any]:
    """What a checkpoint holds; Q's variables can be restored without the rest."""
    return {
        "variables": state.variables,
        "training": {"step": state.step, "opt_state": state.opt_state},
    }


def _from_trees(trees: dict[str, Any]) -> finetune.State:
    return finetune.State(variables=trees["variables"], **trees["training"])


def _is_refresh(config: Config, epoch: int) -> bool:
    every = config.samples.refresh_every
    return every > 0 and epoch % every == 0


def _refresh_number(config: Config, epoch: int) -> int:
    every = config.samples.refresh_every
    return epoch // every if every else 0


def _work_until(experiment: Experiment, epoch: int) -> float:
    """Work done when that many epochs are; all of the run's for the last one."""
    config = experiment.config
    evaluations = 3 if epoch == config.finetuning.epochs else 2
    syntheses = 1 + _refresh_number(config, max(0, epoch - 1))
    if config.method not in SYNTHESIS_METHODS:
        syntheses = 0
    images = sources.num_batches(config) * config.samples.batch_size
    steps_per_epoch = -(-config.samples.num_samples // config.finetuning.batch_size)
    return (
        _WORK["evaluation"] * evaluations * measures.num_evaluated(experiment)
        + _WORK["synthesis"] * syntheses * images * config.synthesis.num_steps
        + _WORK["finetuning"] * epoch * steps_per_epoch * config.finetuning.batch_size
    )


def _results(
    experiment: Experiment, top1: dict[str, float | None], seconds: dict[str, float]
) -> dict[str, Any]:
    config = experiment.config
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
        "evaluation": " ".join(filter(None, _evaluation_name(config))),
        "num_evaluated": measures.num_evaluated(experiment),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "device": f"{experiment.mesh.size} x {experiment.mesh.devices.flat[0].device_kind}",
        "jax": jax.__version__,
    }


def _evaluation_name(config: Config) -> tuple[str, ...]:
    """What `results.json` calls the evaluation images."""
    evaluation = config.evaluation
    if not evaluation.dataset:
        return ("samples",)
    return evaluation.dataset, evaluation.path, evaluation.split
