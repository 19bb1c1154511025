"""Drives the phases over images and devices: the loops around the compiled steps.

Each `make_...` compiles one program for a mesh and returns the function that runs it, so that a
refresh or a second evaluation compiles nothing.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from maskaq_jax import evaluate, finetune, parallel, randomness, synthesis
from maskaq_jax.models import Model
from maskaq_jax.parallel import AXIS, REPLICATED, SHARDED

# Synthesis steps between two returns to the host: enough to hide the return, few enough to show
# progress.
_CHUNK = 10
# Times a batch of images is drawn before giving up on finite ones.
_ATTEMPTS = 3

Advance = Callable[[int], None]


class SampleSet(NamedTuple):
    """Images [N, height, width, channels] float32, normalised; labels [N] int32 they are for."""

    images: np.ndarray
    labels: np.ndarray


def make_accuracy(model: Model, mesh: Mesh) -> Callable[..., float]:
    """Returns `accuracy(variables, batches, advance)`: top-1 in percent.

    `batches` are of images, labels and validity, of a size the devices divide; `advance` is told of
    the images done.
    """

    def per_device(variables: Any, images: Array, labels: Array, valid: Array) -> Any:
        return evaluate.count_correct(model, variables, images, labels, valid, AXIS)

    count = parallel.map_over_devices(
        per_device, mesh, (REPLICATED, SHARDED, SHARDED, SHARDED), REPLICATED
    )

    def accuracy(variables: Any, batches: Iterable[Any], advance: Advance) -> float:
        variables = parallel.put(variables, mesh, REPLICATED)
        correct = total = 0
        for batch in batches:
            batch_correct, batch_total = count(variables, *parallel.put(batch, mesh, SHARDED))
            correct += int(batch_correct)
            total += int(batch_total)
            advance(int(batch_total))
        return 100 * correct / total

    return accuracy


def make_agreement(model: Model, mesh: Mesh) -> Callable[..., dict[str, float]]:
    """Returns `agreement(params, variables, batches, advance)` of P and Q.

    It gives `agreement`, the share of images of the same top-1 class in percent, and
    `feature_cosine`, the mean cosine of their pooled features.
    """

    def per_device(params: Any, variables: Any, images: Array, valid: Array) -> Any:
        return evaluate.count_agreement(model, params, variables, images, valid, AXIS)

    count = parallel.map_over_devices(
        per_device, mesh, (REPLICATED, REPLICATED, SHARDED, SHARDED), REPLICATED
    )

    def agreement(
        params: Any, variables: Any, batches: Iterable[Any], advance: Advance
    ) -> dict[str, float]:
        models = parallel.put((params, variables), mesh, REPLICATED)
        same = cosine = total = 0.0
        for images, _, valid in batches:
            counts = count(*models, *parallel.put((images, valid), mesh, SHARDED))
            same, cosine, total = (
                old + float(new) for old, new in zip((same, cosine, total), counts, strict=True)
            )
            advance(int(counts[-1]))
        return {"agreement": 100 * same / total, "feature_cosine": cosine / total}

    return agreement


def make_synthesis(
    model: Model, spec: synthesis.Spec, mesh: Mesh
) -> Callable[..., tuple[SampleSet, dict[str, float]]]:
    """Returns `synthesize_batch(key, indices, params, variables, advance)`.

    It gives the finished samples of the global numbers `indices` and the loss terms of the last
    step; `advance` is told of the image-steps done. Images with NaN or infinite values are drawn
    again with another key.
    """
    optimizer = synthesis.create_optimizer(spec.settings)
    # A tree of specs in a tree of arrays' place, as jax.shard_map wants it.
    batch_specs = synthesis.Batch(
        indices=SHARDED,  # type: ignore[arg-type]
        labels=SHARDED,  # type: ignore[arg-type]
        params=REPLICATED,
        variables=REPLICATED,
    )

    def per_device(state: Any, batch: Any, key: Array, num_steps: Array) -> Any:
        return synthesis.synthesize(model, optimizer, spec, state, batch, key, num_steps, AXIS)

    shape = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)
    state_specs = parallel.leading_axis_specs(
        jax.eval_shape(lambda images: synthesis.init_state(optimizer, images), shape)
    )
    run_chunk = parallel.map_over_devices(
        per_device,
        mesh,
        (state_specs, batch_specs, REPLICATED, REPLICATED),
        (state_specs, REPLICATED),
        donate=(0,),
    )

    @jax.jit
    def start(key: Array, indices: Array) -> tuple[synthesis.State, Array]:
        labels = synthesis.draw_labels(key, indices, model.num_classes, spec.settings)
        images = synthesis.draw_first_images(key, indices, model.input_shape, spec)
        return synthesis.init_state(optimizer, images), labels

    def attempt(
        key: Array, indices: np.ndarray, params: Any, variables: Any, advance: Advance
    ) -> tuple[SampleSet, dict[str, float]]:
        state, labels = start(key, jnp.asarray(indices, jnp.int32))
        state = jax.tree.map(
            lambda leaf, leaf_spec: parallel.put(leaf, mesh, leaf_spec), state, state_specs
        )
        batch = synthesis.Batch(
            indices=parallel.put(np.asarray(indices, np.int32), mesh, SHARDED),
            labels=parallel.put(labels, mesh, SHARDED),
            params=parallel.put(params, mesh, REPLICATED),
            variables=parallel.put(variables, mesh, REPLICATED),
        )
        for done in range(0, spec.settings.num_steps, _CHUNK):
            num_steps = min(_CHUNK, spec.settings.num_steps - done)
            state, terms = run_chunk(state, batch, key, num_steps)
            jax.block_until_ready(terms)
            advance(num_steps * len(indices))
        images = np.asarray(jax.device_get(state.images))
        return SampleSet(images, np.asarray(labels)), _floats(terms)

    def synthesize_batch(
        key: Array, indices: np.ndarray, params: Any, variables: Any, advance: Advance
    ) -> tuple[SampleSet, dict[str, float]]:
        for number in range(_ATTEMPTS):
            drawn = jax.random.fold_in(key, number)
            batch, terms = attempt(
                drawn, indices, params, variables, advance if number == 0 else lambda _: None
            )
            if np.isfinite(batch.images).all():
                return batch, terms | {"redrawn": float(number)}
        raise FloatingPointError(
            f"images {indices[0]} to {indices[-1]} came out with NaN or infinite values "
            f"{_ATTEMPTS} times: lower config.synthesis.learning_rate"
        )

    return synthesize_batch


def make_finetuning(
    model: Model, spec: finetune.Spec, num_samples: int, mesh: Mesh
) -> tuple[Callable[[Any], finetune.State], Callable[..., Any]]:
    """Returns `init_state(variables)` and `train_epoch(state, epoch, samples, params, key, ...)`.

    An epoch visits every sample once in an order drawn for it; the last batch is filled from the
    order's beginning. It gives the new state and the mean loss terms; `advance` is told of the
    images done.
    """
    settings = spec.settings
    steps_per_epoch = -(-num_samples // settings.batch_size)
    optimizer = finetune.create_optimizer(settings, max(1, settings.epochs * steps_per_epoch))

    def per_device(state: Any, batch: Any, key: Array) -> Any:
        return finetune.step(model, optimizer, spec, state, batch, key, AXIS)

    batch_specs = finetune.Batch(
        indices=SHARDED,  # type: ignore[arg-type]
        images=SHARDED,  # type: ignore[arg-type]
        params=REPLICATED,
    )
    train_step = parallel.map_over_devices(
        per_device,
        mesh,
        (REPLICATED, batch_specs, REPLICATED),
        (REPLICATED, REPLICATED),
        donate=(0,),
    )

    def init_state(variables: Any) -> finetune.State:
        # A copy, since training donates its state.
        state = finetune.init_state(optimizer, jax.tree.map(jnp.copy, variables))
        return parallel.put(state, mesh, REPLICATED)

    def train_epoch(
        state: finetune.State,
        epoch: int,
        samples: SampleSet,
        params: Any,
        key: Array,
        advance: Advance,
    ) -> tuple[finetune.State, dict[str, float]]:
        order_key = jax.random.fold_in(randomness.named_key(key, "order"), epoch)
        order = np.asarray(jax.random.permutation(order_key, num_samples), np.int32)
        order = np.resize(order, (steps_per_epoch, settings.batch_size))
        params = parallel.put(params, mesh, REPLICATED)
        history = []
        for indices in order:
            batch = finetune.Batch(
                indices=parallel.put(indices, mesh, SHARDED),
                images=parallel.put(samples.images[indices], mesh, SHARDED),
                params=params,
            )
            state, terms = train_step(state, batch, key)
            history.append(terms)
            jax.block_until_ready(terms)
            advance(settings.batch_size)
        return state, _floats(jax.tree.map(lambda *terms: jnp.stack(terms).mean(), *history))

    return init_state, train_epoch


def _floats(terms: dict[str, Array]) -> dict[str, float]:
    return {name: float(value) for name, value in terms.items()}
