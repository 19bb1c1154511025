"""Drives an evaluator: its counts over batches of images, on the devices of a mesh."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from maskaq_jax.data.batches import LabelledBatch
from maskaq_jax.data.dataset import label_shape
from maskaq_jax.devices import parallel
from maskaq_jax.devices.global_batch import GlobalBatch
from maskaq_jax.devices.parallel import AXIS, REPLICATED, SHARDED
from maskaq_jax.evaluation.evaluator import Counts, Evaluator
from maskaq_jax.models import Model, shapes

# Is told how many images, or steps of an image, are done.
Advance = Callable[[int], None]


class Measured(NamedTuple):
    """What an evaluator found.

    Attributes:
      figures: by name.
      num_images: images that they are of.
    """

    figures: dict[str, float]
    num_images: int


class EvaluationLoop:
    """Evaluates a model; owns the program that counts.

    The program is compiled when the first batch runs, and once.
    """

    def __init__(self, evaluator: Evaluator, model: Model, mesh: Mesh):
        """Compiles nothing yet.

        Args:
          evaluator: what to count.
          model: P or Q, as the evaluator has it.
          mesh: of `parallel.make_mesh`.
        """
        self._evaluator, self._model, self._mesh = evaluator, model, mesh
        self.program = parallel.map_over_devices(
            self._count, mesh, (REPLICATED, SHARDED), REPLICATED
        )

    def run(self, variables: Any, batches: Iterable[LabelledBatch], advance: Advance) -> Measured:
        """Evaluates the model with these variables.

        Args:
          variables: as the evaluator takes them.
          batches: this host's rows of each.
          advance: is told of the images done.

        Raises:
          OSError: no image is valid.
        """
        variables = parallel.put(variables, self._mesh, REPLICATED)
        counts, num_images = [], 0
        for batch in batches:
            found = jax.device_get(
                self.program(variables, parallel.put(batch, self._mesh, SHARDED))
            )
            counts.append(found)
            num_images += int(found["images"])
            advance(int(found["images"]))
        if not num_images:
            raise OSError("no evaluation image could be read")
        return Measured(self._evaluator.finish(counts), num_images)

    def argument_shapes(self, batch_size: int) -> tuple[Any, ...]:
        """The program's arguments for a model and that many images, without values."""
        labels = jax.ShapeDtypeStruct((batch_size, *label_shape(self._model)), jnp.int32)
        valid = jax.ShapeDtypeStruct((batch_size,), jnp.bool_)
        images = shapes.image_shapes(self._model, batch_size)
        return shapes.variable_shapes(self._model), LabelledBatch(images, labels, valid)

    def _count(self, variables: Any, batch: LabelledBatch) -> Counts:
        """What one device does."""
        return self._evaluator.count(self._model, variables, batch, GlobalBatch(AXIS))
