"""A small ViT, whose weights come in many files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.models import create_model

TINY = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
MODEL = create_model("vit", 3, **TINY)


@pytest.fixture(scope="package")
def params():
    return jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]


def assert_same(found, expected):
    """Checks that trees of arrays are the same to the last bit."""
    jax.tree.map(np.testing.assert_array_equal, found, expected)
