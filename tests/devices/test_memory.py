import gc
import subprocess
import sys

import pytest

from maskaq_jax.devices import memory

# Page faults of most runs of a program that needs 64 MB for temporary values, after its first. Now
# and then another thread takes a bit of what is free, and the next run has to look elsewhere.
FAULTS = """
import ctypes, resource, statistics, sys
from maskaq_jax.devices import memory

assert sys.argv[1] == "no" or memory.keep_freed_memory()
import jax
import jax.numpy as jnp

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages, which fault once for 2 MB

@jax.jit
def program(x):
    return jnp.outer(x, x) @ x

x = jnp.ones(4096)
faults = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median(faults[1:]))
"""


def _faults(keep):
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, keep], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_program_finds_its_memory_again():
    assert _faults("yes") < 100 < _faults("no")


def test_the_collector_passes_over_what_is_loaded():
    memory.spare_loaded_objects()
    try:
        assert gc.get_freeze_count() > 0
        # What comes later is still looked through.
        later: list = []
        later.append(later)
        del later
        assert gc.collect() > 0
    finally:
        gc.unfreeze()


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", pytest.fail)
    assert not memory.keep_freed_memory()
