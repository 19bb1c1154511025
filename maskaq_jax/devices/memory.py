"""What Python and the C library do with memory, so that programs start and run without delay."""

import ctypes
import gc
import os
import platform

import jax

# Of glibc's malloc.h: parameters of mallopt, and values that switch off what they govern.
_SETTINGS = {
    # Every block comes from the heap, however large.
    "M_MMAP_MAX": (-4, 0),
    # The heap keeps what is freed at its end: -1 is the largest size there is.
    "M_TRIM_THRESHOLD": (-1, -1),
}


def return_freed_memory() -> None:
    """Returns what is freed to the system, so that phases don't pile up theirs.

    Worth its time where a phase ends: the next one's programs need pieces of other sizes.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory() -> bool:
    """Makes the C library's allocator keep what is freed, until `return_freed_memory`.

    A program of XLA's CPU backend allocates its temporary values anew whenever it runs, and glibc
    would fetch them from the system, a page fault for every 4 KB, and give them back
    (`docs/performance.md` has what that costs). Accelerators have allocators of their own.

    For this a program on one CPU device runs in the thread that calls it, if its arguments are
    there: the main thread's heap can grow, where those of others end at 64 MB and pass larger
    requests to the system. The caller waits for the program. Call it before JAX's first
    computation, which settles in which threads programs run.

    Returns:
      Whether the allocator could be set; nothing changes where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    could = all(mallopt(parameter, value) for parameter, value in _SETTINGS.values())
    if could:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    return could


def compute_in_32_bits() -> None:
    """Has JAX make 32-bit numbers of Python's, as programs here expect, whatever JAX_ENABLE_X64 is.

    Call it before JAX's first computation.
    """
    jax.config.update("jax_enable_x64", False)


def spare_loaded_objects() -> None:
    """Has the garbage collector pass over what is there by now: modules, mostly.

    Tracing makes so many objects that it would look through all there are again and again, which
    shows in a run's start.
    """
    gc.freeze()


def keep_on_disk(directory: str) -> None:
    """Has programs of every size kept in a directory or bucket: the next start compiles none.

    Raises:
      OSError: the directory can't be made or written to.
    """
    if "://" not in directory:
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError as error:
            raise OSError(f"{directory} can't be made: {error.strerror}") from error
        if not os.access(directory, os.W_OK | os.X_OK):
            raise OSError(f"{directory} can't be written to")
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
