"""Where a run's samples come from: synthesis, noise or real images."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from maskaq_jax import phases, randomness, report, samples, synthesis
from maskaq_jax.config import Config
from maskaq_jax.experiment import Experiment
from maskaq_jax.phases import SampleSet

# Images in samples.png.
_SAMPLES_DRAWN = 24


def make_source(
    experiment: Experiment, key: Array, reporter: report.Reporter
) -> Callable[[int, Any], SampleSet]:
    """Returns `make_samples(refresh, variables)`, which gives the images of a refresh.

    Batches that the store holds already are read; the others are made against Q's `variables`.
    """
    config, model, params = experiment.config, experiment.model, experiment.params
    real = experiment.real
    if real is not None:
        return lambda refresh, variables: real
    if config.method == "noise":
        noise = draw_noise(experiment, key, config.samples.num_samples)
        return lambda refresh, variables: SampleSet(noise, np.zeros(len(noise), np.int32))

    size, num_samples = config.samples.batch_size, config.samples.num_samples
    synthesize_batch = phases.make_synthesis(
        model, synthesis.Spec(config.synthesis, config.pixels), experiment.mesh
    )

    def make_samples(refresh: int, variables: Any) -> SampleSet:
        refresh_key = jax.random.fold_in(randomness.named_key(key, "synthesize"), refresh)
        batches = []
        for number in range(num_batches(config)):
            path = samples.shard_path(experiment.workdir / "samples", refresh, number)
            with reporter.phase("synthesis") as advance:
                if path.exists():
                    batch = SampleSet(*samples.read_shard(path))
                    advance(size * config.synthesis.num_steps)
                else:
                    indices = np.arange(number * size, (number + 1) * size)
                    batch, terms = synthesize_batch(
                        refresh_key, indices, params, variables, advance
                    )
                    samples.write_shard(path, *batch)
                    reporter.metrics("synthesis", refresh * num_batches(config) + number, terms)
            batches.append(batch)
        images, labels = (
            np.concatenate(arrays)[:num_samples] for arrays in zip(*batches, strict=True)
        )
        _draw_samples(experiment, images[:_SAMPLES_DRAWN])
        return SampleSet(images, labels)

    return make_samples


def draw_noise(experiment: Experiment, key: Array, count: int | None = None) -> np.ndarray:
    """Gaussian images [count, *model.input_shape]; as many as calibration takes by default."""
    config = experiment.config
    indices = jnp.arange(count or config.samples.calibration_size)
    shape = experiment.model.input_shape
    noise = synthesis.draw_noise(
        randomness.named_key(key, "noise samples"), indices, shape, config.pixels
    )
    return np.asarray(noise)


def num_batches(config: Config) -> int:
    """Batches a synthesis of all samples takes."""
    return -(-config.samples.num_samples // config.samples.batch_size)


def _draw_samples(experiment: Experiment, images: np.ndarray) -> None:
    """Writes samples.png: images and the regions P finds most informative in them."""
    config, model = experiment.config, experiment.model

    @jax.jit
    def find_regions(params: Any, images: Array) -> Array:
        _, out = model.clone(quantization=None).apply({"params": params}, images)
        return model.patch_regions(out["attention_logits"], config.synthesis.initial_ratio)

    masks = np.asarray(find_regions(experiment.params, images))
    path = experiment.workdir / "samples.png"
    report.draw_samples(path, images, masks, model.patch_grid, config.pixels)
