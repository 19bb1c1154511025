"""Keeps the memory that compiled programs free, instead of asking for it anew at every step."""

import ctypes
import platform

# Of glibc's malloc.h: parameters of mallopt, and values that switch off what they govern.
_SETTINGS = {
    # One heap for all threads: those of other threads can't hold a program's temporary values, and
    # pass the request to the system. First, since threads that start later make their own.
    "M_ARENA_MAX": (-8, 1),
    # Blocks below 1 GB come from the heap too; of larger ones the system gets back what is free, or
    # those of several programs would pile up.
    "M_MMAP_THRESHOLD": (-3, 2**30),
    # The heap keeps what is freed at its end.
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),
}


def give_back() -> None:
    """Returns what is freed to the system, so that phases don't pile up theirs.

    Worth its time where a phase ends: the next one's programs need pieces of other sizes.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory() -> bool:
    """Makes the C library's allocator keep what is freed, until `give_back`.

    A program of XLA's CPU backend allocates its temporary values anew whenever it runs, and glibc
    would fetch them from the system, a page fault for every 4 KB, and give them back
    (`docs/performance.md` has what that costs). Accelerators have allocators of their own.

    Returns:
      Whether it could; nothing changes where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(parameter, value) for parameter, value in _SETTINGS.values())
