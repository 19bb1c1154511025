"""Where a run's samples come from: synthesis, noise or real images."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from maskaq_jax import (
    backgrounds,
    first_images,
    inception_score,
    interruption,
    memory,
    noise,
    parallel,
    phases,
    randomness,
    report,
    sample_sheet,
    samples,
    synthesis,
)
from maskaq_jax.config import SYNTHESIS_METHODS, Config
from maskaq_jax.experiment import Experiment
from maskaq_jax.models import full_precision
from maskaq_jax.phases import ReadImages, SavedProgress, SynthesisProgress

# Images in samples.png.
_SAMPLES_SHOWN = 24
# First images that P chooses a background by.
_IMAGES_SCORED = 256
_draw_images = jax.jit(first_images.draw_images, static_argnums=(2, 3))
# How often an image was drawn again, in its file and in the metrics.
_REDRAWS = "redraws"


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
    size, num_steps = batch_size(config), config.synthesis.num_steps
    synthesis_key = randomness.named_key(key, "synthesize")

    @functools.cache
    def prepare_synthesis() -> Callable[..., Iterator[SynthesisProgress]]:
        spec = synthesis.Spec(config.synthesis, config.pixels)
        if spec.settings.background == "auto":
            background_key = randomness.named_key(synthesis_key, "background")
            spec = _choose_background(experiment, background_key, spec, reporter)
        return phases.make_synthesis(experiment.model, spec, experiment.mesh)

    def make_batch(folder: Path, refresh: int, number: int, variables: Any) -> None:
        share = parallel.share_batch(number * size, (number + 1) * size, experiment.mesh)
        refresh_key = jax.random.fold_in(synthesis_key, refresh)
        unfinished = folder / f"unfinished_{share.first:08d}_{jax.process_index()}.safetensors"
        before = _read_progress(unfinished, share, reporter.warn)
        reporter.keep("synthesis", size * before.step if before else 0)
        with reporter.phase("synthesis") as advance:
            synthesize_batch = prepare_synthesis()
            progresses = synthesize_batch(refresh_key, share, experiment.params, variables, before)
            for progress in _report_progress(
                progresses, before, share, refresh, advance, reporter.warn
            ):
                if progress.step == num_steps:
                    continue  # finished, or to be drawn again
                is_stopping = clock.is_stopping()
                if is_stopping or clock.is_due():
                    _write_progress(unfinished, share, progress)
                    reporter.store_seconds("synthesis")
                    clock.restart()
                if is_stopping:
                    raise interruption.Interrupted
        _write_batch(folder, share, progress)
        reporter.store_seconds("synthesis")
        unfinished.unlink(missing_ok=True)
        reporter.metrics(
            "synthesis",
            refresh * num_batches(config) + number,
            progress.terms | {_REDRAWS: float(progress.attempt)},
        )
        if clock.is_stopping():
            raise interruption.Interrupted

    def make_images(refresh: int, variables: Any, missing: Sequence[int] | None) -> ReadImages:
        folder = samples.refresh_folder(experiment.workdir / "samples", refresh)
        if missing is None:
            missing = find_missing(experiment, refresh, reporter.warn)
        reporter.keep("synthesis", (num_batches(config) - len(missing)) * size * num_steps)
        for number in missing:
            make_batch(folder, refresh, number, variables)
        memory.give_back()
        return samples.open_images(folder)

    return make_images


def _choose_background(
    experiment: Experiment, key: Array, spec: synthesis.Spec, reporter: report.Reporter
) -> synthesis.Spec:
    """The spec with the colour of background in front of which P tells first images apart best.

    Raises:
      FloatingPointError: P's answers are not finite.
    """
    specs = [
        dataclasses.replace(spec, settings=dataclasses.replace(spec.settings, background=colour))
        for colour in backgrounds.COLOURS
    ]
    # Hosts agree, however close it is.
    scores = parallel.take_from_main(
        np.asarray([_score_first_images(experiment, key, choice) for choice in specs])
    )
    if not np.isfinite(scores).all():
        raise FloatingPointError(
            "the model's answers to first images are NaN or infinite: check config.model.weights, "
            "or set config.synthesis.background"
        )
    named: dict[str, float] = dict(zip(backgrounds.COLOURS, map(float, scores), strict=True))
    chosen = specs[int(scores.argmax())]
    reporter.metrics("background", 0, named)
    reporter.message(
        f"images get a {chosen.settings.background} background; log inception scores: "
        + ", ".join(f"{colour} {score:.2f}" for colour, score in named.items())
    )
    return chosen


def _score_first_images(experiment: Experiment, key: Array, spec: synthesis.Spec) -> float:
    """`inception_score.of_images` of first images as they are in front of the spec's background."""
    shape = experiment.model.input_shape
    images = _draw_images(key, jnp.arange(_IMAGES_SCORED), shape, spec)
    images = spec.pixels.clip(images)
    return float(inception_score.of_images(experiment.model, experiment.params, images))


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


def _write_batch(folder: Path, share: parallel.HostShare, progress: SynthesisProgress) -> None:
    """Writes this host's images of a batch and their labels, and removes what was there."""
    if parallel.is_main_process():
        samples.remove_batch(folder, share.first, share.stop)
    parallel.wait_for_hosts("removed")
    if share.valid.any():
        images = parallel.fetch(progress.state.images)[share.valid]
        indices = share.indices[share.valid]
        labels = progress.labels[share.valid]
        path = samples.shard_path(folder, int(indices[0]), int(indices[-1]) + 1)
        redraws = np.full(len(images), progress.attempt, np.int32)
        samples.write_arrays(path, {"images": images, "labels": labels, _REDRAWS: redraws})
    parallel.wait_for_hosts("written")


def find_missing(
    experiment: Experiment, refresh: int, on_broken: Callable[[str], None]
) -> list[int]:
    """Numbers of a refresh's batches that are yet to be made; none without synthesis."""
    config = experiment.config
    if config.method not in SYNTHESIS_METHODS:
        return []
    is_missing = np.zeros(num_batches(config), bool)
    if parallel.is_main_process():
        folder = samples.refresh_folder(experiment.workdir / "samples", refresh)
        missing = samples.missing_batches(
            folder, batch_size(config), num_batches(config), on_broken
        )
        is_missing[missing] = True
    return np.flatnonzero(parallel.take_from_main(is_missing)).tolist()


def count_redrawn(store: Path) -> int:
    """Images of all refreshes in a store that had to be drawn again, as they came out not finite.

    Files of earlier refreshes that can't be read any more don't count.
    """
    count = 0
    for folder in samples.list_refreshes(store):
        for shard in samples.list_shards(folder):
            with contextlib.suppress(OSError):
                count += int((samples.read_array(shard.path, _REDRAWS) > 0).sum())
    return count


def read_noise(experiment: Experiment, key: Array) -> ReadImages:
    """Gaussian images of the model's shape, drawn as they are read."""
    shape, pixels = experiment.model.input_shape, experiment.config.pixels
    noise_key = randomness.named_key(key, "noise samples")

    @jax.jit
    def draw(indices: Array) -> Array:
        return noise.draw_noise(noise_key, indices, shape, pixels)

    return lambda indices: np.asarray(draw(jnp.asarray(indices)))


def num_batches(config: Config) -> int:
    """Batches a synthesis of all samples takes."""
    return -(-config.samples.num_samples // batch_size(config))


def batch_size(config: Config) -> int:
    """Images made at a time; no more than are wanted."""
    return min(config.samples.batch_size, config.samples.num_samples)


def _write_progress(path: Path, share: parallel.HostShare, progress: SynthesisProgress) -> None:
    arrays = {
        f"leaf_{number:03d}": leaf
        for number, leaf in enumerate(jax.tree.leaves(parallel.fetch(progress.state)))
    }
    arrays["indices"] = share.indices
    arrays["position"] = np.asarray([progress.attempt, progress.step])
    samples.write_arrays(path, arrays)


def _read_progress(
    path: Path, share: parallel.HostShare, on_broken: Callable[[str], None]
) -> SavedProgress | None:
    """Where a stopped synthesis of this batch stood; None unless every host knows it alike."""
    arrays = {"indices": np.zeros(0), "position": np.zeros(2, np.int64)}
    if path.is_file():
        try:
            arrays = samples.read_arrays(path)
        except samples.BrokenFileError as error:
            on_broken(f"{error}; its images are made from the start")
    position = arrays.pop("position")
    is_mine = np.array_equal(arrays.pop("indices"), share.indices)
    # Every host must ask, whatever it has found itself.
    is_common = np.array_equal(parallel.take_from_main(position), position)
    if parallel.any_host(not (is_mine and is_common)):
        return None
    leaves = [arrays[name] for name in sorted(arrays)]
    return SavedProgress(int(position[0]), int(position[1]), leaves)


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
        path = experiment.workdir / "samples.png"
        sample_sheet.draw(path, images, masks, model.patch_grid, config.pixels)

    return show
