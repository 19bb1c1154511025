"""Data-free quantization of vision transformers: MaskAQ in JAX."""

import os
from typing import Any

__version__ = "0.1.0"


def load(workdir: str | os.PathLike[str]) -> tuple[Any, Any]:
    """The quantized model of a finished run.

        model, variables = maskaq_jax.load(workdir)
        logits, out = model.apply(variables, images)

    Args:
      workdir: directory of the run.

    Returns:
      The model and its variables; images are [B, height, width, channels] float32, normalised as
      the run's `config.json` says under `pixels`.

    Raises:
      FileNotFoundError: there is no finished run.
      OSError: its last checkpoint is damaged.
    """
    from maskaq_jax import experiment  # JAX loads when it is needed.

    return experiment.load(workdir)
