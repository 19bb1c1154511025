"""Four virtual CPU devices, strict shapes, and the golden numbers."""

import os

from tests import emitters

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    (os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=4", emitters.FLAG)
)

import json
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest

from maskaq_jax import memory

jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("default", deadline=None, max_examples=30)
hypothesis.settings.load_profile("default")


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that none of them is left to one worker at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """Tracing goes faster, as in a run."""
    memory.spare_loaded_objects()


@pytest.fixture(scope="module")
def few_optimisations():
    """For files whose time is compilation, at the price of other rounding than a user's."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


GOLDEN = Path(__file__).parent / "golden"


class Golden:
    """One model's golden numbers, weights file and architecture."""

    def __init__(self, name):
        self.arrays = np.load(GOLDEN / f"{name}.npz")
        self.weights = GOLDEN / f"{name}.safetensors"
        description = GOLDEN / f"{name}.json"
        self.arguments = json.loads(description.read_text()) if description.exists() else {}

    def __getitem__(self, name):
        return self.arrays[name]


@pytest.fixture(scope="session")
def golden():
    return Golden


def assert_close(actual, expected, tolerance=1e-4):
    """Largest error at most `tolerance` of the largest expected value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.size == expected.size
    error = np.abs(actual.reshape(expected.shape) - expected).max()
    # A gradient that is exactly 0 there may be off by the order of a sum here.
    scale = np.abs(expected).max() or 1.0
    assert error <= tolerance * scale, f"error {error} at scale {scale}"


@pytest.fixture(scope="session")
def close():
    return assert_close
