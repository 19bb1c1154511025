"""Data-free quantization of vision transformers: MaskAQ in JAX."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from maskaq_jax.api import Quantized, quantize
    from maskaq_jax.runs.inputs import Picture

__version__ = "0.1.0"

__all__ = ["Quantized", "load", "quantize", "read_images"]


def __getattr__(name: str) -> Any:
    """`quantize` and `Quantized`, whose module loads JAX, when they are asked for."""
    if name in ("Quantized", "quantize"):
        from maskaq_jax import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(workdir: str | os.PathLike[str]) -> tuple[Any, Any]:
    """The quantized model of a finished run.

        >>> model, variables = maskaq_jax.load(workdir)
        >>> images = maskaq_jax.read_images(workdir, ["cat.jpg", "dog.png"])
        >>> logits, out = model.apply(variables, images)

    Args:
      workdir: directory of the run.

    Returns:
      The model and its variables; images are [B, height, width, channels] float32, normalised as
      the run's `config.json` says under `pixels`: `read_images` makes them of picture files.

    Raises:
      FileNotFoundError: there is no finished run.
      OSError: its last checkpoint is damaged.
    """
    from maskaq_jax.runs import inputs  # JAX loads when it is needed.

    return inputs.load(workdir)


def read_images(
    workdir: str | os.PathLike[str],
    files: "Picture | Iterable[Picture]",
) -> "np.ndarray":
    """Pictures as the model of a run takes them: resized, cropped and normalised.

        >>> maskaq_jax.read_images(workdir, ["cat.jpg", "dog.png"]).shape
        (2, 28, 28, 3)

    Args:
      workdir: directory of the run.
      files: paths of pictures of any size that Pillow reads, pictures that it has opened, or
        [height, width, channels] uint8; one or several.

    Returns:
      [B, height, width, channels] float32.

    Raises:
      FileNotFoundError: there is no run, or no such file.
      ValueError: a file is no picture; it is named.
    """
    from maskaq_jax.runs import inputs  # JAX loads when it is needed.

    return inputs.read_images(workdir, files)
