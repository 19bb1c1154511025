"""What tells images of files from others that came into their place."""

import itertools
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from maskaq_jax.data.boxes import Boxes
from maskaq_jax.data.coco import CocoPictures
from maskaq_jax.data.folder import FolderReal, ImageFiles
from maskaq_jax.data.label_maps import MappedFiles


def fingerprint(images: Any) -> int | None:
    """CRC-32 of the names, sizes and labels of files of images.

    Folders don't count, since the same files may lie elsewhere by now. No file is read.

    Args:
      images: a `Dataset` or a `RealSource`.

    Returns:
      None where they are no files of a user's own.
    """
    entries: Iterable[tuple[Any, ...]]
    if isinstance(images, CocoPictures):
        entries = images.pictures
    elif isinstance(images, ImageFiles | MappedFiles):
        entries = images.files
    elif isinstance(images, FolderReal):
        entries = [(path,) for path in images.find().images]
    else:
        return None
    value = 0
    for part in itertools.chain.from_iterable(entries):
        value = zlib.crc32(_bytes_of(part), value)
    return value


def _bytes_of(part: Any) -> bytes:
    if isinstance(part, Path):
        return f"{part.name}:{_size(part)};".encode(errors="surrogateescape")
    if isinstance(part, Boxes):
        return b"".join(np.ascontiguousarray(values).tobytes() for values in part)
    return f"{part};".encode()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:  # a broken image, which evaluation counts
        return None
