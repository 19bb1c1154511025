"""Config files: found by a path, or among those that ship with the package.

A clone has them in `configs/`, an installation in `maskaq_jax/configs/`; both are meant by
`configs/NAME.py`, and a file that is there where one stands comes first.
"""

import ast
import sys
from collections.abc import Iterator
from importlib import machinery, util
from pathlib import Path
from typing import Any

from maskaq_jax.storage import paths

_PACKAGE = Path(__file__).parents[1]
# Files of `configs/` that others share, and that are no config themselves.
_SHARED = ("__init__.py", "common.py")


def own_folder() -> Path:
    """The folder of the configs that ship with the package."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def find(name: str) -> Path:
    """A config file as given, or the package's own of that name.

    Raises:
      FileNotFoundError: there is neither.
    """
    path = paths.expanded_path(name)
    if path.is_file():
        return path
    own = own_folder() / path.name
    if path.parent.name in ("", "configs") and not path.is_absolute() and own.is_file():
        return own
    told = paths.missing_file(path, [Path("configs", own.name) for own in list_own()])
    raise FileNotFoundError(f"{told} (--list_configs lists those that ship)")


def list_own() -> list[Path]:
    """The configs that ship with the package, by name."""
    return sorted(path for path in own_folder().glob("*.py") if path.name not in _SHARED)


def describe_own() -> Iterator[tuple[str, str]]:
    """Name and first line of each config that ships with the package."""
    for path in list_own():
        told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        yield f"configs/{path.name}", told.partition("\n")[0]


def load(path: Path) -> Any:
    """The module of a config file, which has `get_config`."""
    provide_neighbours(path.resolve().parent)
    spec = util.spec_from_file_location(f"maskaq_jax_config_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def provide_neighbours(folder: Path) -> None:
    """Makes `from configs import common` find the neighbours of a config in this folder, or ours.

    Wherever one starts: what is called `configs` in the current directory, which Python would look
    at first, comes last here, and its `__init__` never runs.
    """
    places = [folder] if folder.name == "configs" else []
    places += [own_folder(), *(Path(root, "configs") for root in sys.path)]
    spec = machinery.ModuleSpec("configs", None, is_package=True)
    spec.submodule_search_locations = [str(place) for place in places if place.is_dir()]
    sys.modules["configs"] = util.module_from_spec(spec)
