"""A file compared with the integers of JAX, layer by layer, each fed with what the file had.

So a difference is a layer's own: it isn't that of the layers before it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from maskaq_jax.config import Config
from maskaq_jax.export import networks
from maskaq_jax.export.agreement import as_input
from maskaq_jax.export.integers import IntegerOperators
from maskaq_jax.export.operators import Kernel, Rounded
from maskaq_jax.models import Model
from maskaq_jax.quantizers import ByteGrid


class Layer(NamedTuple):
    """What was found of one tensor.

    Attributes:
      name: of its variables.
      kind: 'codes' of a rounded activation, or 'product'.
      same: share of codes that are the same, 1 for products.
      largest: largest difference: of codes in steps, of products as a share of the largest value.
      from_tie: of codes that differ, the largest distance of the value from a tie, in steps.
    """

    name: str
    kind: str
    same: float
    largest: float
    from_tie: float


def compare_layers(
    model: Model, variables: Any, settings: Config, images: np.ndarray
) -> list[Layer]:
    """Compares all rounded activations and products of an ONNX file.

    Args:
      model: Q.
      variables: its `params` and `quant`.
      settings: of the run.
      images: [B, height, width, channels] float32, normalised.

    Returns:
      In the order of the network.
    """
    import onnxruntime

    from maskaq_jax.export import onnx

    preprocessing = settings.evaluation.preprocessing
    proto = onnx.build(model, variables, settings.pixels, preprocessing, shows=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    given = as_input(images, "pixel_values", settings.pixels)
    seen = dict(zip(names, session.run(names, {"pixel_values": given}), strict=True))
    operators = _FollowingOperators(seen)
    networks.outputs(operators, model, jax.device_get(variables), jax.numpy.asarray(images))
    return operators.layers


class _FollowingOperators(IntegerOperators):
    """Integers of JAX that go on with the file's codes, whatever their own are."""

    def __init__(self, seen: Mapping[str, np.ndarray]):
        super().__init__()
        self._of_file = seen
        self.layers: list[Layer] = []

    def quantize(self, x: Array, grid: ByteGrid | None, name: str) -> Rounded:
        if grid is None:
            return Rounded(x, None)
        own = np.asarray(grid.round(x)).astype(np.int32)
        theirs = self._of_file[name].astype(np.int32)
        differs = own != theirs
        ties = np.asarray(x, np.float64) / grid.step
        distances = np.abs(ties - np.floor(ties) - 0.5)
        self.layers.append(
            Layer(
                name=name,
                kind="codes",
                same=float(1 - differs.mean()),
                largest=float(np.abs(own - theirs).max()),
                from_tie=float(distances[differs].max(initial=0)),
            )
        )
        return Rounded(jax.numpy.asarray(self._of_file[name]), grid)

    def dense(self, x: Rounded, kernel: Kernel, name: str) -> Array:
        return self._compare(super().dense(x, kernel, name), name)

    def product(self, x: Rounded, y: Rounded, factor: float, name: str) -> Array:
        return self._compare(super().product(x, y, factor, name), name)

    def _compare(self, own: Array, name: str) -> Array:
        theirs = self._of_file[name]
        scale = max(float(np.abs(theirs).max()), float(np.finfo(np.float32).tiny))
        difference = float(np.abs(np.asarray(own) - theirs).max()) / scale
        self.layers.append(Layer(name, "product", 1.0, difference, 0.0))
        return own
