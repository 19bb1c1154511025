"""Weights from the Hugging Face hub, through its own client: its cache, offline mode, progress."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskaq_jax.torch_import import companions, readers

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def parse_address(address: str) -> re.Match[str]:
    """The parts of an address, `repository` and `revision`.

    Raises:
      ValueError: it does not read `hf://organisation/name[@revision]`.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(
            f"weights {address!r} should read hf://organisation/name or .../name@revision"
        )
    return match


def fetch(address: str) -> Path:
    """Downloads a repository's weights, unless they are in the client's cache.

    Args:
      address: `hf://organisation/name[@revision]`; a revision is a branch, tag or commit.

    Returns:
      Where the file lies.

    Raises:
      ValueError: malformed address, the `hub` extra is missing, there is no such repository or
        revision, it holds no weights, or it can't be reached.
    """
    parts = parse_address(address)
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise ValueError(
            f"{address}: fetching weights needs huggingface_hub: pip install huggingface_hub"
        ) from error
    unreachable: Exception | None = None
    for name in readers.FILES:
        try:
            path = _download(parts, name, local_files_only=unreachable is not None)
        except errors.LocalEntryNotFoundError as error:
            unreachable = unreachable or error  # the other file may be in the cache
        except errors.EntryNotFoundError:
            continue
        except Exception as error:  # the hub's own kinds, and whatever its connection raises
            raise ValueError(f"{address} can't be fetched: {_first_line(error)}") from error
        else:
            _fetch_others(parts, path, address)
            return path
    if unreachable is not None:
        raise ValueError(
            f"{address} is not in the cache and the hub can't be reached: "
            f"{_first_line(unreachable)}"
        ) from unreachable
    raise ValueError(
        f"{address} holds neither model.safetensors nor pytorch_model.bin, whole or in parts, nor "
        "flax_model.msgpack"
    )


def _download(parts: re.Match[str], name: str, **options: Any) -> Path:
    import huggingface_hub

    with _quiet_client():
        path = huggingface_hub.hf_hub_download(
            parts["repository"], name, revision=parts["revision"], **options
        )
    return Path(path)


def _fetch_others(parts: re.Match[str], weights: Path, address: str) -> None:
    """Fetches what lies beside weights: the parts that an index lists, and what is said of them."""
    for name in companions.FILES:
        with contextlib.suppress(Exception):  # there is none, or it can't be had: as of a file
            _download(parts, name)
    if not weights.name.endswith(readers.INDEX):
        return
    try:
        listed = json.loads(weights.read_text(encoding="utf-8"))["weight_map"].values()
        for name in sorted(set(listed)):
            _download(parts, name)
    except Exception as error:  # a malformed index, the hub's own kinds, a connection's
        raise ValueError(f"{address} can't be fetched: {_first_line(error)}") from error


@contextlib.contextmanager
def _quiet_client() -> Iterator[None]:
    """The client tells of every attempt to connect; what comes of them is told by an error."""
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _first_line(error: Exception) -> str:
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
