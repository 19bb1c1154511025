"""Tells a failing machine, too little memory and a full disk from a damaged file."""

import errno
import os
import re
from pathlib import Path

import jax

# What the system says where a file is missing or is no file; all other numbers are the machine's.
_OF_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)
# TensorStore, which reads Orbax's arrays, tells the system's number in its words alone.
_TENSORSTORE_NUMBER = re.compile(r"os_error_code='(\d+)'")
# Bytes that tell what a file is.
_START = 256
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_of_machine(error: Exception) -> bool:
    """Whether an error tells of the machine, so that the same file may be read another time."""
    if isinstance(error, OSError):  # without a number it is a library's, of what it has read
        return error.errno is not None and error.errno not in _OF_FILE
    if told := _TENSORSTORE_NUMBER.search(str(error)):
        return int(told[1]) not in _OF_FILE
    return isinstance(error, MemoryError | jax.errors.JaxRuntimeError)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device has too little memory for a program or an array."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def check_opens(path: Path) -> None:
    """Raises what the system says of a file that it can't open; safetensors says there is none."""
    path.open("rb").close()


def find_full_disk(error: BaseException | None) -> str | None:
    """Says so if an error, or one it comes from, is about a disk without room; else None.

    Orbax and safetensors write through libraries that pass on the system's words alone.
    """
    while error is not None:
        text = str(error)
        for number in _FULL_DISK:
            if getattr(error, "errno", None) == number or os.strerror(number) in text:
                return f"the disk has no room ({os.strerror(number)})"
        error = error.__cause__ or error.__context__
    return None


def what_it_is(path: Path) -> str | None:
    """What a small file is that stands where another should, from its first bytes; None if unknown.

    Git LFS, git-annex and downloads that failed leave such files.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_START)
    except OSError:
        return None
    text = start.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not the file itself: fetch that with `git lfs pull`"
    if b"/annex/objects/" in text or text.startswith(b"/annex"):
        return "this is a git-annex pointer, not the file itself: fetch that with `git annex get`"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "this is a web page, not the file itself: the download went wrong"
    return None
