"""Drives fine-tuning: epochs over a store's images, on the devices of a mesh."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding

from maskaq_jax import losses
from maskaq_jax.data.batches import ReadImages
from maskaq_jax.devices import parallel
from maskaq_jax.devices.keys import named_key
from maskaq_jax.devices.parallel import AXIS, REPLICATED, SHARDED
from maskaq_jax.finetuning import step as finetuning
from maskaq_jax.finetuning.optimizer import create_optimizer
from maskaq_jax.finetuning.step import FinetuningBatch, FinetuningSpec, FinetuningState
from maskaq_jax.models import Model, shapes


class Trained(NamedTuple):
    """The state after a training step, and the step's loss terms."""

    state: FinetuningState
    terms: dict[str, float]


class FinetuningLoop:
    """Trains Q step by step; owns the optimiser, the program that takes a step, and its shapes.

    An epoch visits every image once in an order drawn for it; its last batch is filled from the
    order's beginning. No batch is larger than all the images, and one that the devices don't divide
    is padded with images that don't count.
    """

    def __init__(
        self, model: Model, spec: FinetuningSpec, num_samples: int, key: Array, mesh: Mesh
    ):
        """Compiles nothing yet.

        Args:
          model: Q.
          spec: settings and pixels.
          num_samples: images of an epoch.
          key: of fine-tuning.
          mesh: of `parallel.make_mesh`.
        """
        self._model, self._spec, self._mesh, self._key = model, spec, mesh, key
        self._num_samples = num_samples
        self._batch_size = min(spec.settings.batch_size, num_samples)
        self._steps_per_epoch = finetuning.steps_per_epoch(spec.settings, num_samples)
        self._optimizer = create_optimizer(
            spec.settings, spec.settings.epochs * self._steps_per_epoch
        )
        self._rows = parallel.rows_of_batch(0, self._batch_size, mesh)
        self._program = self.program(self._rows.is_padded)

    def init_state(self, variables: Any) -> FinetuningState:
        """The state before the first step, on the devices."""
        # A copy, since training donates its state.
        state = finetuning.init_state(self._optimizer, jax.tree.map(jnp.copy, variables))
        return parallel.put(state, self._mesh, REPLICATED)

    def run(
        self, state: FinetuningState, steps: range, read_images: ReadImages, params: Any
    ) -> Iterator[Trained]:
        """Yields the state and the loss terms after each step.

        A step takes the memory of the state before. While accelerators work on it, the images of
        the next are read.

        Args:
          state: after the step before.
          steps: numbers of the steps to take.
          read_images: the images trained on, by number.
          params: P's weights.
        """
        params = parallel.put(params, self._mesh, REPLICATED)
        key = parallel.put(self._key, self._mesh, REPLICATED)
        batches = self._read_batches(steps, read_images, params)
        batch = next(batches, None)
        while batch is not None:
            state, terms = self._program(state, batch, key)
            batch = next(batches, None)  # while accelerators work; a CPU is done by then
            yield Trained(state, {name: float(value) for name, value in terms.items()})

    def program(self, is_padded: bool = False) -> jax.stages.Wrapped:
        """`finetuning.step` of (state, batch, key); the state's memory is reused.

        Args:
          is_padded: whether batches say which images are valid.
        """
        batch_shardings = FinetuningBatch(
            indices=SHARDED, images=SHARDED, params=REPLICATED, valid=SHARDED if is_padded else None
        )
        return parallel.map_over_devices(
            self._take_step,
            self._mesh,
            (REPLICATED, batch_shardings, REPLICATED),
            (REPLICATED, REPLICATED),
            donate=(0,),
        )

    def argument_shapes(self, batch_size: int) -> tuple[Any, ...]:
        """The program's arguments for that many images, without values: to lower it for chips that
        aren't there, or to ask XLA what it costs.
        """
        state = self._state_shapes()
        numbers: Any = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
        images = shapes.image_shapes(self._model, batch_size)
        batch = FinetuningBatch(numbers, images, state.variables["params"])
        return state, batch, shapes.key_shape()

    def state_template(self) -> FinetuningState:
        """The state on the devices, without values: what a checkpoint is restored into."""
        return parallel.shapes_on(NamedSharding(self._mesh, REPLICATED), self._state_shapes())

    def _state_shapes(self) -> FinetuningState:
        return jax.eval_shape(
            lambda variables: finetuning.init_state(self._optimizer, variables),
            shapes.variable_shapes(self._model),
        )

    def _draw_order(self, epoch: int) -> np.ndarray:
        """[steps, batch] int32 numbers of the images that the steps of an epoch see."""
        order_key = jax.random.fold_in(named_key(self._key, "order"), epoch)
        order = np.asarray(jax.random.permutation(order_key, self._num_samples), np.int32)
        return np.resize(order, (self._steps_per_epoch, self._batch_size))

    def _read_batches(
        self, steps: range, read_images: ReadImages, params: Any
    ) -> Iterator[FinetuningBatch]:
        valid = None
        if self._rows.is_padded:
            valid = parallel.put(self._rows.valid, self._mesh, SHARDED)
        for epoch, in_epoch in itertools.groupby(steps, lambda step: step // self._steps_per_epoch):
            order = self._draw_order(epoch)
            for step in in_epoch:
                indices = order[step % self._steps_per_epoch][self._rows.indices]
                images = read_images(indices)
                indices, images = parallel.put((indices, images), self._mesh, SHARDED)
                yield FinetuningBatch(indices, images, params, valid)

    def _take_step(
        self, state: FinetuningState, batch: FinetuningBatch, key: Array
    ) -> tuple[FinetuningState, losses.Terms]:
        """What one device does."""
        return finetuning.step(self._model, self._optimizer, self._spec, state, batch, key, AXIS)
