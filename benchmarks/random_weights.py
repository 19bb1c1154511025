"""Weights that no training made, for benchmarks of memory and time."""

from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from maskaq_jax import torch_import
from maskaq_jax.models import Model


def write_random_weights(path: Path, model: Model) -> None:
    """Weights of a full-precision model as its initialisers draw them, under timm's names."""
    images = np.zeros((1, *model.input_shape), np.float32)
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    save_file(torch_import.to_torch_state(params), path)
