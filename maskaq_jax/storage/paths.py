"""Paths that a user gives, and those of the files that ship with the package."""

import difflib
import os
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

EMBEDDED_SCHEME = "embedded:"


def expanded_path(text: str) -> Path:
    """A path whose `~` is the home directory: behind a `=` shells leave it as it is."""
    return Path(os.path.expanduser(text))


def asset_path(name: str) -> Path:
    """Where a file of `maskaq_jax/assets` lies."""
    return Path(str(resources.files("maskaq_jax.assets"))) / name


def weights_path(weights: str) -> Path:
    """A path as given, or the asset that `embedded:NAME` stands for."""
    if weights.startswith(EMBEDDED_SCHEME):
        return asset_path(f"{weights.removeprefix(EMBEDDED_SCHEME)}.safetensors")
    return expanded_path(weights)


def missing_file(path: Path, others: Iterable[Path] = ()) -> str:
    """Says that there is no such file, and which one beside it, or of others, has the nearest name.

    Args:
      path: that there is no file at.
      others: files elsewhere that may be meant.
    """
    if path.is_dir():
        return f"{path} is a folder, not a file"
    if told := dangling_link(path):
        return told
    by_name = {other.name: other for other in (*others, *path.parent.glob(f"*{path.suffix}"))}
    near = difflib.get_close_matches(path.name, by_name, n=1)
    return f"no file {path}" + (f": did you mean {by_name[near[0]]}?" if near else "")


def dangling_link(path: Path) -> str | None:
    """Says where a link leads that leads to nothing; None of all else."""
    if not path.is_symlink() or path.exists():
        return None
    return f"{path} is a link to {path.readlink()}, where there is nothing"


def missing_folder(field: str, text: str) -> str | None:
    """Says why a field's path is no folder; None where it is one."""
    if not text:
        return f"{field} is missing: name a folder"
    path = expanded_path(text)
    if path.is_dir():
        return None
    if path.exists():
        return f"{field}: {text} is a file, not a folder"
    if told := dangling_link(path):
        return f"{field}: {told}"
    return f"{field}: no folder {text!r}"


def hub_address(text: str) -> str | None:
    """Says how to name weights by `hf://`, of an address of another kind; None if it is none."""
    page = re.match(
        r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)"
        r"(?:/(?:tree|blob|resolve)/([^/?#]+))?",
        text.replace(":/h", "://h") if re.match(r"https?:/\w", text) else text,
    )
    if page:
        revision = f"@{page[2]}" if page[2] and page[2] != "main" else ""
        return f"weights of the Hugging Face hub are named hf://{page[1]}{revision}"
    if named := re.fullmatch(r"(?:hf-hub|hf_hub|hf|timm):/?/?([\w.-]+/[\w.-]+)", text):
        return f"weights of the Hugging Face hub are named hf://{named[1]}"
    if re.match(r"(?:[a-z][a-z0-9+]*:/{1,2}|www\.)[\w.-]+", text):
        return "weights are a file, a folder or hf://organisation/name: download it first"
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text):
        return f"if it is of the Hugging Face hub, name it hf://{text}"
    return None
