"""Drives the phases over images and devices: the loops around the programs.

Each `make_...` returns a function that runs one program of a mesh, so that a refresh or a second
evaluation compiles nothing.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from maskaq_jax import (
    finetune,
    first_images,
    parallel,
    programs,
    randomness,
    synthesis,
    synthesis_terms,
)
from maskaq_jax.models import Model
from maskaq_jax.parallel import REPLICATED, SHARDED

# Synthesis steps between two returns to the host: enough to hide the return, few enough to show
# progress.
STEPS_PER_DISPATCH = 10
# Times a batch of images is drawn before giving up on finite ones.
_ATTEMPTS = 3

Advance = Callable[[int], None]
# Reads the images of given global numbers: [B] int -> [B, height, width, channels] float32.
ReadImages = Callable[[np.ndarray], np.ndarray]


def make_accuracy(model: Model, mesh: Mesh) -> Callable[..., tuple[float, int]]:
    """Returns `accuracy(variables, batches, advance)`: top-1 in percent, and of how many images.

    `batches` are of this host's rows of images, labels and validity; `advance` is told of the
    images done.

    Raises:
      OSError: no image is valid.
    """
    count = programs.map_evaluation(model, mesh)

    def accuracy(variables: Any, batches: Iterable[Any], advance: Advance) -> tuple[float, int]:
        variables = parallel.put(variables, mesh, REPLICATED)
        correct = total = 0
        for batch in batches:
            batch_correct, batch_total = count(variables, *parallel.put(batch, mesh, SHARDED))
            correct += int(batch_correct)
            total += int(batch_total)
            advance(int(batch_total))
        if not total:
            raise OSError("no evaluation image could be read")
        return 100 * correct / total, total

    return accuracy


def make_agreement(model: Model, mesh: Mesh) -> Callable[..., tuple[dict[str, float], int]]:
    """Returns `agreement(params, variables, batches, advance)` of P and Q.

    It gives `agreement`, the share of images of the same top-1 class in percent, and
    `feature_cosine`, the mean cosine of their pooled features; and the number of images.

    Raises:
      OSError: no image is valid.
    """
    count = programs.map_agreement(model, mesh)

    def agreement(
        params: Any, variables: Any, batches: Iterable[Any], advance: Advance
    ) -> tuple[dict[str, float], int]:
        models = parallel.put((params, variables), mesh, REPLICATED)
        same = cosine = total = 0.0
        for images, _, valid in batches:
            counts = count(*models, *parallel.put((images, valid), mesh, SHARDED))
            same, cosine, total = (
                old + float(new) for old, new in zip((same, cosine, total), counts, strict=True)
            )
            advance(int(counts[-1]))
        if not total:
            raise OSError("no evaluation image could be read")
        return {"agreement": 100 * same / total, "feature_cosine": cosine / total}, int(total)

    return agreement


class SynthesisProgress(NamedTuple):
    """Where the synthesis of a batch stands.

    Attributes:
      attempt: how often its images have been drawn again.
      step: steps taken.
      labels: [n] int32, of this host's images.
      state: on the devices; the next step takes its memory.
      terms: loss terms of the last step.
    """

    attempt: int
    step: int
    labels: np.ndarray
    state: synthesis.State
    terms: dict[str, float]


class SavedProgress(NamedTuple):
    """A `SynthesisProgress` to continue from: `leaves` are those of its state, fetched."""

    attempt: int
    step: int
    leaves: list[np.ndarray]


class Trained(NamedTuple):
    """The state after a training step, and the step's loss terms."""

    state: finetune.State
    terms: dict[str, float]


def make_synthesis(
    model: Model, spec: synthesis.Spec, mesh: Mesh
) -> Callable[..., Iterator[SynthesisProgress]]:
    """Returns `synthesize_batch(key, share, params, variables, resume_from=None)`.

    It makes the images of `share`, a batch of `parallel.share_batch`, and yields after each
    dispatch of some steps; the last state has the images. Images with NaN or infinite values are
    drawn again with another key.

    Raises:
      FloatingPointError: while iterating, if the images never come out finite.
    """
    optimizer = synthesis.create_optimizer(spec.settings)
    state_specs = programs.synthesis_state_specs(model, spec)

    @functools.cache
    def map_chunk(is_padded: bool) -> jax.stages.Wrapped:
        return programs.map_synthesis(model, spec, mesh, is_padded)

    @jax.jit
    def start(key: Array, indices: Array) -> tuple[synthesis.State, Array]:
        labels = first_images.draw_labels(key, indices, model.num_classes, spec.settings)
        images = first_images.draw_images(key, indices, model.input_shape, spec)
        return synthesis.init_state(optimizer, images), labels

    def synthesize_batch(
        key: Array,
        share: parallel.HostShare,
        params: Any,
        variables: Any,
        resume_from: SavedProgress | None = None,
    ) -> Iterator[SynthesisProgress]:
        run_chunk = map_chunk(share.is_padded)
        indices, valid = parallel.put((share.indices, share.valid), mesh, SHARDED)
        params, variables = parallel.put((params, variables), mesh, REPLICATED)
        for attempt in range(resume_from.attempt if resume_from else 0, _ATTEMPTS):
            attempt_key = jax.random.fold_in(key, attempt)
            state, labels = parallel.fetch(start(attempt_key, share.indices))
            step = 0
            if resume_from and resume_from.attempt == attempt:
                state = jax.tree.unflatten(jax.tree.structure(state), resume_from.leaves)
                step = resume_from.step
            state = jax.tree.map(
                lambda leaf, leaf_spec: parallel.put(leaf, mesh, leaf_spec), state, state_specs
            )
            batch = synthesis_terms.Batch(
                indices=indices,
                labels=parallel.put(labels, mesh, SHARDED),
                params=params,
                variables=variables,
                valid=valid if share.is_padded else None,
            )
            while step < spec.settings.num_steps:
                num_steps = min(STEPS_PER_DISPATCH, spec.settings.num_steps - step)
                state, terms = run_chunk(
                    state, batch, parallel.put(attempt_key, mesh, REPLICATED), np.int32(num_steps)
                )
                step += num_steps
                yield SynthesisProgress(attempt, step, labels, state, _floats(terms))
            broken = ~np.isfinite(parallel.fetch(state.images)).all()
            if not parallel.any_host(broken):
                return
        raise FloatingPointError(
            f"images {share.first} to {share.stop - 1} came out with NaN or infinite values "
            f"{_ATTEMPTS} times: lower config.synthesis.learning_rate"
        )

    return synthesize_batch


def make_finetuning(
    model: Model, spec: finetune.Spec, num_samples: int, key: Array, mesh: Mesh
) -> tuple[Callable[[Any], finetune.State], Callable[..., Iterator[Trained]]]:
    """Returns `init_state(variables)` and `train(state, steps, read_images, params)`.

    `train` yields the state and the loss terms after each step of the range `steps`, and takes the
    memory of the state before. While accelerators work on a step it reads the images of the next.

    An epoch visits every sample once in an order drawn for it; its last batch is filled from the
    order's beginning. No batch is larger than all the samples, and one that the devices don't
    divide is padded with images that don't count.
    """
    settings = spec.settings
    batch_size = min(settings.batch_size, num_samples)
    steps_per_epoch = finetune.steps_per_epoch(settings, num_samples)
    num_steps = settings.epochs * steps_per_epoch
    optimizer = finetune.create_optimizer(settings, num_steps)
    share = parallel.share_batch(0, batch_size, mesh)

    take_step = programs.map_finetuning(model, spec, num_steps, mesh, share.is_padded)
    valid = parallel.put(share.valid, mesh, SHARDED) if share.is_padded else None

    global_key = parallel.put(key, mesh, REPLICATED)

    def draw_order(epoch: int) -> np.ndarray:
        order_key = jax.random.fold_in(randomness.named_key(key, "order"), epoch)
        order = np.asarray(jax.random.permutation(order_key, num_samples), np.int32)
        return np.resize(order, (steps_per_epoch, batch_size))

    def read_batches(
        steps: range, read_images: ReadImages, params: Any
    ) -> Iterator[finetune.Batch]:
        for epoch, in_epoch in itertools.groupby(steps, lambda step: step // steps_per_epoch):
            order = draw_order(epoch)
            for step in in_epoch:
                indices = order[step % steps_per_epoch][share.indices]
                indices, images = parallel.put((indices, read_images(indices)), mesh, SHARDED)
                yield finetune.Batch(indices, images, params, valid)

    def init_state(variables: Any) -> finetune.State:
        # A copy, since training donates its state.
        state = finetune.init_state(optimizer, jax.tree.map(jnp.copy, variables))
        return parallel.put(state, mesh, REPLICATED)

    def train(
        state: finetune.State, steps: range, read_images: ReadImages, params: Any
    ) -> Iterator[Trained]:
        params = parallel.put(params, mesh, REPLICATED)
        batches = read_batches(steps, read_images, params)
        batch = next(batches, None)
        while batch is not None:
            state, terms = take_step(state, batch, global_key)
            batch = next(batches, None)  # while accelerators work; a CPU is done by then
            yield Trained(state, _floats(terms))

    return init_state, train


@jax.jit
def is_finite(tree: Any) -> Array:
    """[] bool, whether every number of a tree is finite."""
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return jnp.stack(leaves).all()


def _floats(terms: dict[str, Array]) -> dict[str, float]:
    return {name: float(value) for name, value in terms.items()}
