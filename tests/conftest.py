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

from maskaq_jax.devices import memory

# Programs that were compiled in an earlier session are read again, in other clones and by processes
# that tests start too. Most of the time of tests is compilation, and a program that is compiled
# with little care is as right.
_COMPILED = {
    "jax_compilation_cache_dir": str(Path.home() / ".cache" / "maskaq_jax_tests"),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_disable_most_optimizations": True,
}
_MAX_CACHE_BYTES = 4 * 1024**3
# Linux lets a process have 65 530.
_MAX_MAPPINGS = 20_000

for _name, _value in _COMPILED.items():
    jax.config.update(_name, _value)
    os.environ[_name.upper()] = str(_value)

jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("default", deadline=None, max_examples=30)
hypothesis.settings.load_profile("default")


def pytest_configure(config):
    """Forgets the oldest programs, where there are many; nobody else uses the folder yet."""
    if hasattr(config, "workerinput"):
        return
    size = 0
    for path in sorted(Path(_COMPILED["jax_compilation_cache_dir"]).glob("*"), key=_age):
        size += path.stat().st_size
        if size > _MAX_CACHE_BYTES:
            path.unlink()


def _age(path):
    return -path.stat().st_mtime


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that none of them is left to one worker at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """Tracing goes faster, as in a run."""
    memory.spare_loaded_objects()


@pytest.fixture(scope="module")
def all_optimisations():
    """For files that count on a user's rounding."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module", autouse=True)
def few_programs_at_a_time():
    """A process has so many mappings of memory and no more, and each loaded program takes some."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > _MAX_MAPPINGS:
        jax.clear_caches()


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
