"""Image files below a folder, and what else lies there."""

import os
from pathlib import Path
from typing import NamedTuple

from maskaq_jax.data import preprocessing

# What systems leave beside a user's own folders, in lower case; hidden ones are passed over anyway.
_OF_SYSTEMS = frozenset(
    ("__macosx", "__pycache__", "lost+found", "system volume information", "recycler")
)
_STARTS_OF_SYSTEMS = (".", "@", "#", "$")


class Found(NamedTuple):
    """Files of a folder, in order.

    Attributes:
      images: those that Pillow reads, by their endings.
      others: all else.
    """

    images: list[Path]
    others: list[Path]


def find_below(root: Path) -> Found:
    """All files but hidden ones; raises OSError for a folder that can't be listed.

    A link that leads back to a folder which it lies below is not followed.
    """

    def fail(error: OSError) -> None:
        raise error

    paths_below: list[Path] = []
    outermost = frozenset(map(_identity, root.resolve().parents))
    above = {os.path.dirname(root): outermost}
    for folder, subfolders, names in os.walk(root, onerror=fail, followlinks=True):
        here, outer = _identity(folder), above[os.path.dirname(folder)]
        if here in outer:
            subfolders.clear()
            continue
        above[folder] = outer | {here}
        subfolders[:] = [name for name in subfolders if not is_of_system(name)]
        paths_below += [Path(folder, name) for name in names if not name.startswith(".")]
    return sort_out(paths_below)


def _identity(folder: str | Path) -> tuple[int, int]:
    """What the same folder has in common, whatever leads to it."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def sort_out(files: list[Path]) -> Found:
    """Files by what their endings say."""
    endings = preprocessing.readable_endings()
    found = Found([], [])
    for path in sorted(files):
        (found.images if path.suffix.lower() in endings else found.others).append(path)
    return found


def is_of_system(name: str) -> bool:
    """Whether a folder is hidden, or made by a system, an archive or an editor."""
    return name.startswith(_STARTS_OF_SYSTEMS) or name.lower() in _OF_SYSTEMS
