import subprocess
import sys

import pytest

from maskaq_jax import memory

# Page faults of a thread that allocates 64 MB again, as a compiled program does.
FAULTS = """
import ctypes, resource, sys, threading
from maskaq_jax import memory

assert sys.argv[1] == "no" or memory.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.prctl(41, 1, 0, 0, 0)  # no huge pages, which fault once for 2 MB
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def use(size=2**26):
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)

def run():
    use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


def _faults(keep):
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, keep], capture_output=True, text=True, check=True
    )
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_found_again():
    assert _faults("yes") < 100 < _faults("no")


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", pytest.fail)
    assert not memory.keep_freed_memory()
