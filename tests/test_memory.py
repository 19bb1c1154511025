import subprocess
import sys

import pytest

from maskaq_jax import memory

# Page faults of a program's later runs, whose temporary values take 32 MB.
FAULTS = """
import resource, sys
from maskaq_jax import memory

assert sys.argv[1] == "no" or memory.keep_freed_memory()
import jax, jax.numpy as jnp

@jax.jit
def program(x):
    for _ in range(4):
        x = jnp.sin(x @ x)
    return x.sum()

x = jnp.ones((2048, 2048))
for number in range(20):
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(keep):
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, keep], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_program_that_runs_again_finds_its_memory():
    # The heap still grows now and then, until its pieces fit.
    assert _faults("yes") < _faults("no") / 2


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", pytest.fail)
    assert not memory.keep_freed_memory()
