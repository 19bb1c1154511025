"""A tiny model P, its quantized twin Q, and images."""

import jax
import jax.numpy as jnp
import pytest

from maskaq_jax import calibration
from maskaq_jax.models import Quantization, create_model
from tests.devices.common import BATCH, TINY


@pytest.fixture(scope="package")
def model():
    return create_model("vit", 4, Quantization(4, 4), **TINY)


@pytest.fixture(scope="package")
def images():
    # Of different contrast, so that a norm over all of them is not the mean of their norms.
    contrast = jnp.linspace(0.2, 2.0, BATCH)[:, None, None, None]
    return contrast * jax.random.normal(jax.random.key(0), (BATCH, 8, 8, 3))


@pytest.fixture(scope="package")
def params(model, images):
    init = jax.jit(model.clone(quantization=None).init)
    return init(jax.random.key(1), images)["params"]


@pytest.fixture(scope="package")
def variables(model, params, images):
    # Weights that differ from P's, so that P and Q disagree by more than rounding.
    moved = jax.tree.map(lambda weight: 1.1 * weight + 0.01, params)
    return {"params": moved, "quant": calibration.calibrate(model, params, images)}
