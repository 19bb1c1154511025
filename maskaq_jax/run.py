"""The whole algorithm on one page.

calibrate on noise -> [ synthesize -> fine-tune ... ] every refresh -> evaluate -> save

The first samples calibrate once more, on themselves.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from maskaq_jax import (
    calibration,
    checkpoint,
    experiment,
    finetune,
    interruption,
    measures,
    memory,
    parallel,
    phases,
    programs,
    randomness,
    report,
    results,
    schedule,
    sources,
    workload,
)
from maskaq_jax.experiment import Experiment


def run(prepared: Experiment, is_terminated: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Quantizes P without data and writes `results.json`, which it returns.

    A run that was stopped continues from its newest whole checkpoint.

    Args:
      prepared: of `experiment.prepare`.
      is_terminated: asked after every step whether to save and stop, as by
        `interruption.catch_termination`.

    Raises:
      ConfigError: another run is at work in the directory.
      Interrupted: it was asked to stop, and the state is saved.
      FloatingPointError: synthesis or fine-tuning diverged.
      OSError: no evaluation image can be read, or a file or the disk fails.
    """
    config, model, mesh = prepared.config, prepared.model, prepared.mesh
    plan = schedule.make_plan(config)
    key = jax.random.key(config.seed)
    params = parallel.put(prepared.params, mesh, parallel.REPLICATED)
    accuracy_of_p = phases.make_accuracy(model.clone(quantization=None), mesh)
    accuracy_of_q = phases.make_accuracy(model, mesh)
    init_state, train = phases.make_finetuning(
        model,
        finetune.Spec(config.finetuning, config.pixels),
        config.samples.num_samples,
        randomness.named_key(key, "finetune"),
        mesh,
    )
    with (
        experiment.claim(prepared),
        _open_reporter(prepared, plan) as reporter,
        checkpoint.open_manager(prepared.workdir / "checkpoints", plan.steps_per_refresh) as saves,
    ):
        clock = interruption.Clock(config.checkpoint_seconds, is_terminated)
        if prepared.evaluation is None:
            reporter.message(
                "no evaluation dataset (config.evaluation): instead of accuracy, the agreement of "
                "the quantized with the full-precision model on the samples will be reported"
            )
        measure = functools.partial(measures.measure_accuracy, prepared, reporter, clock)
        make_samples = sources.make_source(prepared, key, reporter, clock)

        save = functools.partial(_save, saves, plan, reporter, clock)
        find_missing = functools.cache(
            functools.partial(sources.find_missing, prepared, on_broken=reporter.warn)
        )
        saved = _restore(prepared, plan, saves, reporter, find_missing)
        terms: dict[str, float] = {}
        epoch_terms: list[dict[str, float]] = []
        if saved is None:
            top1 = {"fp": measure(accuracy_of_p, {"params": params})[0]}
            # Synthesis couples P with Q, so Q needs quantizers before there is an image: noise
            # gives the first ones.
            count = min(config.samples.calibration_size, config.samples.num_samples)
            variables = _calibrated(prepared, sources.read_noise(prepared, key), count)
            samples = make_samples(0, variables)
            if config.samples.calibration == "synthetic":
                variables = _calibrated(prepared, samples, count)
            top1["calibrated"], _ = measure(accuracy_of_q, variables)
            first_step, state = 0, init_state(variables)
            save(0, state, terms, top1, epoch_terms)
        else:
            first_step, state = saved.step, _from_trees(saved.trees)
            top1, epoch_terms = saved.progress["top1"], saved.progress["epoch_terms"]
            refresh = plan.refresh_of(first_step)
            samples = make_samples(refresh, state.variables, find_missing(refresh))

        for steps in plan.rounds(first_step):
            if steps.start > first_step:
                save(steps.start, state, terms, top1, epoch_terms)
                samples = make_samples(plan.refresh_of(steps.start), state.variables)
            training = train(state, steps, samples, params)
            for step in steps:
                with reporter.phase("finetuning") as advance:
                    state, terms = next(training)
                    advance(config.finetuning.batch_size)
                _check_finite(saves, plan, step, all(map(math.isfinite, terms.values())), terms)
                epoch_terms.append(terms)
                if plan.ends_epoch(step):
                    reporter.metrics("finetuning", plan.epoch_of(step), _mean(epoch_terms))
                    epoch_terms = []
                is_stopping = clock.is_stopping()
                if is_stopping or clock.is_due() or step + 1 == plan.num_steps:
                    save(step + 1, state, terms, top1, epoch_terms)
                if is_stopping:
                    raise interruption.Interrupted
        saves.wait_until_finished()

        top1["quantized"], num_evaluated = measure(accuracy_of_q, state.variables)
        agreement: dict[str, float] = {}
        if not measures.is_labelled(prepared):
            agreement, num_evaluated = measures.measure_agreement(
                prepared, state.variables, samples, reporter, clock
            )
        summary = results.summarise(prepared, top1, num_evaluated, reporter.seconds) | agreement
        if parallel.is_main_process():
            report.write_json(prepared.workdir / "results.json", summary)
            report.print_results(reporter.console, summary)
            if results.lost_accuracy(summary):
                reporter.warn(
                    "fine-tuning left the calibrated model worse than it was: metrics.jsonl has "
                    "its losses"
                )
    return summary


def _calibrated(prepared: Experiment, read_images: phases.ReadImages, count: int) -> dict[str, Any]:
    """Q's variables with P's weights and quantizers initialised on the first `count` images."""
    images = jnp.asarray(read_images(np.arange(count)))
    quant = calibration.calibrate(prepared.model, prepared.params, images)
    memory.give_back()
    return {"params": prepared.params, "quant": quant}


def _restore(
    prepared: Experiment,
    plan: schedule.Plan,
    saves: Any,
    reporter: report.Reporter,
    find_missing: Callable[[int], list[int]],
) -> checkpoint.Checkpoint | None:
    """The newest whole state whose samples are whole too, or can be made again from it."""

    def is_usable(step: int) -> bool:
        return plan.is_refresh(step) or not find_missing(plan.refresh_of(step))

    newest = saves.latest_step()
    spec = finetune.Spec(prepared.config.finetuning, prepared.config.pixels)
    shapes = programs.finetuning_state_shapes(prepared.model, spec, prepared.mesh)
    saved = checkpoint.restore(saves, _to_trees(shapes), reporter.warn, is_usable)
    step = saved.step if saved else 0
    if newest is not None and newest > step:
        reporter.warn(f"training goes back from step {newest} to {step}, the last that is whole")
    checkpoint.discard_after(saves, saved.step if saved else -1)
    reporter.forget_metrics(step // plan.steps_per_epoch)
    if saved:
        reporter.resume(workload.before(prepared, plan, step))
        reporter.message(f"continuing after step {step} of {plan.num_steps}")
    return saved


def _save(
    saves: Any,
    plan: schedule.Plan,
    reporter: report.Reporter,
    clock: interruption.Clock,
    step: int,
    state: finetune.State,
    terms: dict[str, float],
    top1: dict[str, float | None],
    epoch_terms: list[dict[str, float]],
) -> None:
    """Saves the state after `step` training steps, if it is a finite one."""
    _check_finite(saves, plan, step, bool(phases.is_finite(state.variables)), terms)
    progress = {"top1": top1, "epoch_terms": epoch_terms}
    checkpoint.save(saves, step, _to_trees(state), progress)
    reporter.store_seconds(*reporter.seconds)
    clock.restart()


def _check_finite(
    saves: Any, plan: schedule.Plan, step: int, is_finite: bool, terms: dict[str, float]
) -> None:
    if is_finite:
        return
    # A state that gives no finite loss is not a good one, saved or not.
    checkpoint.discard_after(saves, step - 1)
    losses = ", ".join(f"{name} {value:g}" for name, value in terms.items())
    good = saves.latest_step()
    raise FloatingPointError(
        f"fine-tuning diverged at step {step} of {plan.num_steps} ({losses or 'before any step'}): "
        "lower config.finetuning.learning_rate, quantizer_learning_rate or step_learning_rate, "
        "with another --workdir; "
        f"the last good checkpoint is {'none' if good is None else saves.directory / str(good)}"
    )


def _mean(history: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([terms[name] for terms in history])) for name in history[0]}


def _to_trees(state: finetune.State) -> dict[str, Any]:
    """What a checkpoint holds; Q's variables can be restored without the rest."""
    return {
        "variables": state.variables,
        "training": {"step": state.step, "opt_state": state.opt_state},
    }


def _from_trees(trees: dict[str, Any]) -> finetune.State:
    return finetune.State(variables=trees["variables"], **trees["training"])


def _open_reporter(prepared: Experiment, plan: schedule.Plan) -> report.Reporter:
    return report.Reporter(
        prepared.workdir,
        workload.WORK_PER_UNIT,
        workload.total(prepared, plan),
        is_silent=not parallel.is_main_process(),
    )
