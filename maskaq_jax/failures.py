"""What an error tells of: the machine rather than a file, or a full disk."""

import errno
import os
import re
from pathlib import Path

import jax

_OF_MACHINE = (
    *(errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE),
    *(errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN),
)
# TensorStore, which reads Orbax's arrays, tells the system's number in its words alone.
_TENSORSTORE_NUMBER = re.compile(r"os_error_code='(\d+)'")
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_of_machine(error: Exception) -> bool:
    """Whether an error tells of the machine, so that the same file may be read another time."""
    if isinstance(error, OSError):
        return error.errno in _OF_MACHINE
    if told := _TENSORSTORE_NUMBER.search(str(error)):
        return int(told[1]) in _OF_MACHINE
    return isinstance(error, MemoryError | jax.errors.JaxRuntimeError)


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
