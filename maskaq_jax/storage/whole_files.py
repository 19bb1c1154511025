"""Files that appear whole or not at all, even where the power fails."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def unfinished(path: Path) -> Path:
    """What a file is called until it is whole; a process that is killed leaves it behind."""
    return path.with_name(f"{path.name}.unfinished")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to, whose file then replaces `path`; not where the writing fails.

    Raises:
      OSError: the disk fails.
    """
    written = unfinished(path)
    try:
        yield written
        with written.open("rb") as file:
            os.fsync(file.fileno())
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes bytes."""
    with replacing(path) as written:
        written.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a text."""
    with replacing(path) as written:
        written.write_text(text, encoding="utf-8")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes values as JSON."""
    write_text(path, json.dumps(values, indent=2) + "\n")
