"""Where a run's samples come from: synthesis, noise or real images."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from maskaq_jax import (
    background_choice,
    batches,
    interruption,
    memory,
    noise,
    parallel,
    phases,
    randomness,
    report,
    run_files,
    sample_sheet,
    samples,
    synthesis,
)
from maskaq_jax.experiment import Experiment
from maskaq_jax.models import full_precision
from maskaq_jax.phases import ReadImages, SavedProgress, SynthesisProgress

# Images in samples.png.
_SAMPLES_SHOWN = 24


def make_source(
    experiment: Experiment, key: Array, reporter: report.Reporter, clock: interruption.Clock
) -> Callable[..., ReadImages]:
    """Returns `make_samples(refresh, variables, missing=None)`, which gives a refresh's images.

    Batches that the store holds already are kept; the others are made against Q's `variables`.
    Which ones are `missing` is found out, unless it is known.
    """
    make_images = _choose_source(experiment, key, reporter, clock)
    show_samples = _make_sheet_writer(experiment)

    def make_samples(
        refresh: int, variables: Any, missing: Sequence[int] | None = None
    ) -> ReadImages:
        read_images = make_images(refresh, variables, missing)
        show_samples(read_images)
        return read_images

    return make_samples


def _choose_source(
    experiment: Experiment, key: Array, reporter: report.Reporter, clock: interruption.Clock
) -> Callable[..., ReadImages]:
    if experiment.config.method == "noise":
        images = read_noise(experiment, key)
        return lambda refresh, variables, missing: images
    if experiment.real is not None:
        real = experiment.real
        return lambda refresh, variables, missing: lambda indices: real[indices]
    return _make_synthesis(experiment, key, reporter, clock)


def _make_synthesis(
    experiment: Experiment, key: Array, reporter: report.Reporter, clock: interruption.Clock
) -> Callable[..., ReadImages]:
    config = experiment.config
    size, num_steps = batches.batch_size(config), config.synthesis.num_steps
    store = experiment.workdir / run_files.SAMPLES
    synthesis_key = randomness.named_key(key, "synthesize")

    @functools.cache
    def prepare_synthesis() -> Callable[..., Iterator[SynthesisProgress]]:
        spec = synthesis.Spec(config.synthesis, config.pixels)
        if spec.settings.background == "auto":
            background_key = randomness.named_key(synthesis_key, "background")
            spec = background_choice.choose_background(experiment, background_key, spec, reporter)
        return phases.make_synthesis(experiment.model, spec, experiment.mesh)

    def make_batch(folder: Path, refresh: int, number: int, variables: Any) -> None:
        share = parallel.share_batch(number * size, (number + 1) * size, experiment.mesh)
        refresh_key = jax.random.fold_in(synthesis_key, refresh)
        progress_path = batches.progress_path(folder, share)
        before = batches.read_progress(progress_path, share, reporter.warn)

        def save(progress: SynthesisProgress) -> None:
            batches.write_progress(progress_path, share, progress)
            reporter.store_seconds("synthesis")

        reporter.keep("synthesis", size * before.step if before else 0)
        with reporter.phase("synthesis") as advance:
            synthesize_batch = prepare_synthesis()
            progresses = synthesize_batch(refresh_key, share, experiment.params, variables, before)
            for progress in _report_progress(
                progresses, before, share, refresh, advance, reporter.warn
            ):
                if progress.step == num_steps:
                    continue  # finished, or to be drawn again
                clock.save_if_asked(functools.partial(save, progress))
        batches.write_batch(folder, share, progress)
        reporter.store_seconds("synthesis")
        progress_path.unlink(missing_ok=True)
        reporter.metrics(
            "synthesis",
            refresh * batches.num_batches(config) + number,
            progress.terms | {batches.REDRAWS: float(progress.attempt)},
        )
        if clock.is_stopping():
            raise interruption.Interrupted

    def make_images(refresh: int, variables: Any, missing: Sequence[int] | None) -> ReadImages:
        if missing is None:
            missing = batches.find_missing(config, store, refresh, reporter.warn)
        reporter.keep("synthesis", (batches.num_batches(config) - len(missing)) * size * num_steps)
        folder = samples.refresh_folder(store, refresh)
        for number in missing:
            make_batch(folder, refresh, number, variables)
        memory.return_freed_memory()
        return samples.open_images(folder)

    return make_images


def _report_progress(
    progresses: Iterable[SynthesisProgress],
    before: SavedProgress | None,
    share: parallel.HostShare,
    refresh: int,
    advance: phases.Advance,
    warn: Callable[[str], None],
) -> Iterator[SynthesisProgress]:
    """Passes on where a batch stands, and tells of the steps done and of images drawn again."""
    size = share.stop - share.first
    attempt, done = (before.attempt, before.step) if before else (0, 0)
    for progress in progresses:
        advance(size * max(0, progress.step - done))
        done = max(done, progress.step)
        if progress.attempt > attempt:
            attempt = progress.attempt
            warn(
                f"images {share.first} to {share.stop - 1} of refresh {refresh} came out with NaN "
                "or infinite values: drawn again"
            )
        yield progress


def read_noise(experiment: Experiment, key: Array) -> ReadImages:
    """Gaussian images of the model's shape, drawn as they are read."""
    shape, pixels = experiment.model.input_shape, experiment.config.pixels
    noise_key = randomness.named_key(key, "noise samples")

    @jax.jit
    def draw(indices: Array) -> Array:
        return noise.draw_noise(noise_key, indices, shape, pixels)

    return lambda indices: np.asarray(draw(jnp.asarray(indices)))


def _make_sheet_writer(experiment: Experiment) -> Callable[[ReadImages], None]:
    """Returns what writes samples.png: images and the regions P finds most informative in them."""
    config, model = experiment.config, experiment.model

    @jax.jit
    def find_regions(params: Any, images: Array) -> Array:
        _, out = full_precision(model).apply({"params": params}, images)
        return model.patch_regions(out["attention_logits"], config.synthesis.initial_ratio)

    def show(read_images: ReadImages) -> None:
        if not parallel.is_main_process():
            return
        images = read_images(np.arange(min(_SAMPLES_SHOWN, config.samples.num_samples)))
        masks = np.asarray(find_regions(experiment.params, images))
        path = experiment.workdir / run_files.SAMPLE_SHEET
        sample_sheet.draw(path, images, masks, model.patch_grid, config.pixels)

    return show
