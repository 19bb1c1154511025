"""Drives synthesis: a batch of images from noise to its last step, on the devices of a mesh."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from maskaq_jax import losses
from maskaq_jax.devices import parallel
from maskaq_jax.devices.parallel import AXIS, REPLICATED, SHARDED, HostRows
from maskaq_jax.models import Model, shapes
from maskaq_jax.synthesis import first_images, microbatches
from maskaq_jax.synthesis import step as synthesis
from maskaq_jax.synthesis.step import SynthesisSpec, SynthesisState
from maskaq_jax.synthesis.terms import SynthesisBatch

# Synthesis steps between two returns to the host: enough to hide the return, few enough to show
# progress.
STEPS_PER_DISPATCH = 10
# Times a batch of images is drawn before giving up on finite ones.
_ATTEMPTS = 3


class BatchProgress(NamedTuple):
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
    state: SynthesisState
    terms: dict[str, float]


class SavedProgress(NamedTuple):
    """A `BatchProgress` to continue from: its state is this host's rows."""

    attempt: int
    step: int
    state: SynthesisState


class SynthesisLoop:
    """Makes batches of images; owns the optimiser, the program that takes steps, and its shapes.

    The program is compiled when the first batch runs, and once.
    """

    def __init__(self, model: Model, spec: SynthesisSpec, mesh: Mesh):
        """Compiles nothing yet.

        Args:
          model: Q.
          spec: settings, whose background is decided, and pixels.
          mesh: of `parallel.make_mesh`.
        """
        self._model, self._spec, self._mesh = model, spec, mesh
        self._optimizer = synthesis.create_optimizer(spec.settings)
        # Images and what belongs to them are split, the counters are not.
        self._state_shardings = parallel.leading_axis_specs(self.state_shapes(1))
        self._start = jax.jit(self._draw_start)
        self._programs: dict[bool, jax.stages.Wrapped] = {}

    def run(
        self,
        key: Array,
        rows: HostRows,
        params: Any,
        variables: Any,
        resume_from: SavedProgress | None = None,
    ) -> Iterator[BatchProgress]:
        """Makes the images of a batch, and yields after each dispatch of some steps, or once where
        there are none: first images stay as they are then, and nothing is compiled.

        The last state has the images. Images with NaN or infinite values are drawn again with
        another key.

        Args:
          key: of this synthesis.
          rows: this host's, of `parallel.rows_of_batch`.
          params: P's weights.
          variables: Q's variables.
          resume_from: where a batch was stopped.

        Raises:
          FloatingPointError: while iterating, if the images never come out finite.
        """
        num_steps = self._spec.settings.num_steps
        for attempt in range(resume_from.attempt if resume_from else 0, _ATTEMPTS):
            attempt_key = jax.random.fold_in(key, attempt)
            state, labels = parallel.fetch(self._start(attempt_key, rows.indices))
            step = 0
            if resume_from and resume_from.attempt == attempt:
                state, step = resume_from.state, resume_from.step
            state = jax.tree.map(
                lambda leaf, sharding: parallel.put(leaf, self._mesh, sharding),
                state,
                self._state_shardings,
            )
            batch = self._put_batch(rows, labels, params, variables)
            device_key = parallel.put(attempt_key, self._mesh, REPLICATED)
            if not num_steps:
                yield BatchProgress(attempt, step, labels, state, {})
            while step < num_steps:
                count = min(STEPS_PER_DISPATCH, num_steps - step)
                state, terms = self.program(rows.is_padded)(
                    state, batch, device_key, np.int32(count)
                )
                step += count
                told = {name: float(value) for name, value in terms.items()}
                yield BatchProgress(attempt, step, labels, state, told)
            is_broken = ~np.isfinite(parallel.fetch(state.images)).all()
            if not parallel.any_host(is_broken):
                return
        raise FloatingPointError(
            f"images {rows.first} to {rows.stop - 1} came out with NaN or infinite values "
            f"{_ATTEMPTS} times: lower config.synthesis.learning_rate"
        )

    def program(self, is_padded: bool = False) -> jax.stages.Wrapped:
        """`synthesis.synthesize` of (state, batch, key, num_steps); the state's memory is reused.

        Args:
          is_padded: whether batches say which images are valid.
        """
        if is_padded not in self._programs:
            batch_shardings = SynthesisBatch(
                indices=SHARDED,
                labels=SHARDED,
                params=REPLICATED,
                variables=REPLICATED,
                valid=SHARDED if is_padded else None,
            )
            self._programs[is_padded] = parallel.map_over_devices(
                self._take_steps,
                self._mesh,
                (self._state_shardings, batch_shardings, REPLICATED, REPLICATED),
                (self._state_shardings, REPLICATED),
                donate=(0,),
            )
        return self._programs[is_padded]

    def argument_shapes(self, batch_size: int) -> tuple[Any, ...]:
        """The program's arguments for that many images, without values: to lower it for chips that
        aren't there, or to ask XLA what it costs.
        """
        numbers: Any = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
        variables = shapes.variable_shapes(self._model)
        batch = SynthesisBatch(numbers, numbers, variables["params"], variables)
        num_steps = jax.ShapeDtypeStruct((), jnp.int32)
        return self.state_shapes(batch_size), batch, shapes.key_shape(), num_steps

    def state_shapes(self, batch_size: int) -> SynthesisState:
        """The state of that many images, without values."""
        return jax.eval_shape(
            lambda images: synthesis.init_state(self._optimizer, images),
            shapes.image_shapes(self._model, batch_size),
        )

    def _draw_start(self, key: Array, indices: Array) -> tuple[SynthesisState, Array]:
        """The state before the first step, and the labels."""
        settings = self._spec.settings
        labels = first_images.draw_labels(key, indices, self._model.num_classes, settings)
        images = first_images.draw_images(key, indices, self._model.input_shape, self._spec)
        return synthesis.init_state(self._optimizer, images), labels

    def _put_batch(
        self, rows: HostRows, labels: np.ndarray, params: Any, variables: Any
    ) -> SynthesisBatch:
        """What a step reads, on the devices."""
        indices, valid, classes = parallel.put(
            (rows.indices, rows.valid, labels), self._mesh, SHARDED
        )
        params, variables = parallel.put((params, variables), self._mesh, REPLICATED)
        return SynthesisBatch(
            indices=indices,
            labels=classes,
            params=params,
            variables=variables,
            valid=valid if rows.is_padded else None,
        )

    def _take_steps(
        self,
        state: SynthesisState,
        batch: SynthesisBatch,
        key: Array,
        num_steps: Array,
    ) -> tuple[SynthesisState, losses.Terms]:
        """What one device does."""
        num_parts = choose_num_parts(self._model, len(batch.indices), self._mesh)
        return synthesis.synthesize(
            self._model, self._optimizer, self._spec, state, batch, key, num_steps, AXIS, num_parts
        )


def choose_num_parts(model: Model, num_images: int, mesh: Mesh) -> int:
    """Parts that a device's images of synthesis are seen in; accelerators are best kept full."""
    if mesh.devices.flat[0].platform != "cpu":
        return 1
    return microbatches.choose_num_parts(num_images, model.values_per_image)
