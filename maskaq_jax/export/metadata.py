"""What a file says of itself, so that nothing else is needed to use it."""

from typing import Any

from maskaq_jax import __version__, models
from maskaq_jax.data.preprocessing import Preprocessing
from maskaq_jax.export.formats import Input
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import Model

# Of the metadata; its value is JSON.
ENTRY = "maskaq_jax"


def description(
    model: Model, pixels: Pixels, preprocessing: Preprocessing, input_name: Input
) -> dict[str, Any]:
    """What the metadata of a file for runtimes holds.

    Returns:
      JSON values: `input`; the model's `task`; `size` [height, width] of images; the `resize`
      ('shorter' side, 'squash' or 'fit', with its `shortest_edge` and `multiple`), `crop` (share of
      the resized picture's shorter side that the central crop keeps) and `interpolation` that make
      a picture one; `mean` and `std` of pixels in [0, 1]; whether the resized picture is made
      `grey`, with the same value on all channels, which files that take `pixels` do themselves;
      `bits` of `weights` and `activations`, with the `rules` of layers that have others; `classes`,
      0 for a model whose outputs are features; `model`; and the `version` of maskaq_jax.
    """
    quantization = model.quantization
    bits = (
        (32, 32)
        if quantization is None
        else (quantization.weight_bits, quantization.activation_bits)
    )
    return {
        "input": input_name,
        "task": model.task,
        "size": list(model.input_shape[:2]),
        "resize": preprocessing.resize,
        "shortest_edge": preprocessing.shortest_edge,
        "multiple": preprocessing.multiple,
        "crop": preprocessing.crop_ratio,
        "interpolation": preprocessing.interpolation,
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "grey": pixels.grey,
        "bits": dict(zip(("weights", "activations"), bits, strict=True)),
        "rules": quantization.rules if quantization else "",
        "classes": model.num_classes,
        "model": models.description(model),
        "version": __version__,
    }
