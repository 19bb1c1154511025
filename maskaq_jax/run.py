"""The whole algorithm on one page.

calibrate on noise -> [ synthesize -> fine-tune ... ] every refresh -> evaluate -> save

The first samples calibrate once more, on themselves.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from maskaq_jax import (
    batches,
    calibration,
    checkpoint,
    files,
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
    run_directory,
    run_files,
    schedule,
    sources,
    workload,
)
from maskaq_jax.experiment import Experiment
from maskaq_jax.models import full_precision


class Progress(NamedTuple):
    """Where a run stands between two training steps.

    Attributes:
      step: training steps taken.
      state: after them.
      top1: accuracies measured before training, in percent; None without labelled images.
      epoch_terms: loss terms of each step of an epoch that has begun.
      last_terms: those of the last step; a checkpoint has none.
    """

    step: int
    state: finetune.State
    top1: dict[str, float | None]
    epoch_terms: list[dict[str, float]]
    last_terms: dict[str, float]


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
    accuracy_of_p = phases.make_accuracy(full_precision(model), mesh)
    accuracy_of_q = phases.make_accuracy(model, mesh)
    init_state, train = phases.make_finetuning(
        model,
        finetune.Spec(config.finetuning, config.pixels),
        config.samples.num_samples,
        randomness.named_key(key, "finetune"),
        mesh,
    )
    with (
        run_directory.claim(prepared.workdir, config, prepared.params),
        _open_reporter(prepared, plan) as reporter,
        checkpoint.open_manager(
            prepared.workdir / run_files.CHECKPOINTS, plan.steps_per_refresh
        ) as checkpoints,
    ):
        clock = interruption.Clock(config.checkpoint_seconds, is_terminated)
        if prepared.evaluation is None:
            reporter.message(
                "no evaluation dataset (config.evaluation): instead of accuracy, the agreement of "
                "the quantized with the full-precision model on the samples will be reported"
            )
        measure = functools.partial(measures.measure_accuracy, prepared, reporter, clock)
        make_samples = sources.make_source(prepared, key, reporter, clock)
        save = functools.partial(_save, checkpoints, plan, reporter)
        find_missing = functools.cache(
            functools.partial(
                batches.find_missing,
                config,
                prepared.workdir / run_files.SAMPLES,
                on_broken=reporter.warn,
            )
        )
        saved = _restore(prepared, plan, checkpoints, reporter, find_missing)
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
            progress = Progress(0, init_state(variables), top1, epoch_terms=[], last_terms={})
            clock.save(functools.partial(save, progress))
        else:
            progress = Progress(
                saved.step, finetune.from_trees(saved.trees), **saved.progress, last_terms={}
            )
            refresh = plan.refresh_of(progress.step)
            samples = make_samples(refresh, progress.state.variables, find_missing(refresh))

        first_step = progress.step
        for steps in plan.rounds(first_step):
            if steps.start > first_step:
                clock.save(functools.partial(save, progress))
                samples = make_samples(plan.refresh_of(steps.start), progress.state.variables)
            training = train(progress.state, steps, samples, params)
            for step in steps:
                with reporter.phase("finetuning") as advance:
                    trained = next(training)
                    advance(config.finetuning.batch_size)
                if not all(map(math.isfinite, trained.terms.values())):
                    _give_up(checkpoints, plan, step, trained.terms)
                progress = _after_step(progress, trained, plan, reporter)
                is_last = progress.step == plan.num_steps
                clock.save_if_asked(functools.partial(save, progress), is_last)
        checkpoints.wait_until_finished()

        quantized, num_evaluated = measure(accuracy_of_q, progress.state.variables)
        top1 = progress.top1 | {"quantized": quantized}
        agreement: dict[str, float] = {}
        if not measures.is_labelled(prepared):
            agreement, num_evaluated = measures.measure_agreement(
                prepared, progress.state.variables, samples, reporter, clock
            )
        summary = results.summarise(prepared, top1, num_evaluated, reporter.seconds) | agreement
        if parallel.is_main_process():
            files.write_json(prepared.workdir / run_files.RESULTS, summary)
            report.print_results(reporter.console, summary)
            if results.lost_accuracy(summary):
                reporter.warn(
                    "fine-tuning left the calibrated model worse than it was: "
                    f"{run_files.METRICS} has its losses"
                )
    return summary


def _calibrated(prepared: Experiment, read_images: phases.ReadImages, count: int) -> dict[str, Any]:
    """Q's variables with P's weights and quantizers initialised on the first `count` images."""
    images = jnp.asarray(read_images(np.arange(count)))
    # Hosts may round differently, and must not train different models.
    quant = parallel.take_from_main(calibration.calibrate(prepared.model, prepared.params, images))
    memory.return_freed_memory()
    return {"params": prepared.params, "quant": quant}


def _restore(
    prepared: Experiment,
    plan: schedule.Plan,
    checkpoints: checkpoint.Manager,
    reporter: report.Reporter,
    find_missing: Callable[[int], list[int]],
) -> checkpoint.Checkpoint | None:
    """The newest whole state whose samples are whole too, or can be made again from it."""

    def is_usable(step: int) -> bool:
        return plan.is_refresh(step) or not find_missing(plan.refresh_of(step))

    newest = checkpoints.latest_step()
    spec = finetune.Spec(prepared.config.finetuning, prepared.config.pixels)
    shapes = programs.finetuning_state_shapes(prepared.model, spec, prepared.mesh)
    saved = checkpoint.restore(checkpoints, finetune.to_trees(shapes), reporter.warn, is_usable)
    step = saved.step if saved else 0
    if newest is not None and newest > step:
        reporter.warn(f"training goes back from step {newest} to {step}, the last that is whole")
    checkpoint.discard_after(checkpoints, saved.step if saved else -1)
    reporter.forget_metrics(step // plan.steps_per_epoch)
    if saved:
        reporter.resume(workload.before(prepared, plan, step))
        reporter.message(f"continuing after step {step} of {plan.num_steps}")
    return saved


def _save(
    checkpoints: checkpoint.Manager,
    plan: schedule.Plan,
    reporter: report.Reporter,
    progress: Progress,
) -> None:
    """Saves where the run stands, if that is finite."""
    if not phases.is_finite(progress.state.variables):
        _give_up(checkpoints, plan, progress.step, progress.last_terms)
    kept = {"top1": progress.top1, "epoch_terms": progress.epoch_terms}
    checkpoint.save(checkpoints, progress.step, finetune.to_trees(progress.state), kept)
    reporter.store_seconds(*reporter.seconds)


def _after_step(
    progress: Progress, trained: phases.Trained, plan: schedule.Plan, reporter: report.Reporter
) -> Progress:
    """Where the run stands after one more step; an epoch that it ends is told."""
    epoch_terms = [*progress.epoch_terms, trained.terms]
    if plan.ends_epoch(progress.step):
        reporter.metrics("finetuning", plan.epoch_of(progress.step), _mean(epoch_terms))
        epoch_terms = []
    return Progress(progress.step + 1, trained.state, progress.top1, epoch_terms, trained.terms)


def _give_up(
    checkpoints: checkpoint.Manager, plan: schedule.Plan, step: int, terms: dict[str, float]
) -> NoReturn:
    """Ends a run that has diverged, and says what to lower."""
    # A state that gives no finite loss is not a good one, saved or not.
    checkpoint.discard_after(checkpoints, step - 1)
    losses = ", ".join(f"{name} {value:g}" for name, value in terms.items())
    good = checkpoints.latest_step()
    raise FloatingPointError(
        f"fine-tuning diverged at step {step} of {plan.num_steps} ({losses or 'before any step'}): "
        "lower config.finetuning.learning_rate, quantizer_learning_rate or step_learning_rate, "
        "with another --workdir; "
        "the last good checkpoint is "
        f"{'none' if good is None else checkpoints.directory / str(good)}"
    )


def _mean(history: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([terms[name] for terms in history])) for name in history[0]}


def _open_reporter(prepared: Experiment, plan: schedule.Plan) -> report.Reporter:
    return report.Reporter(
        prepared.workdir,
        workload.WORK_PER_UNIT,
        workload.total(prepared, plan),
        is_silent=not parallel.is_main_process(),
    )
