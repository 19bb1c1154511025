"""Imports point up the list of files; whoever needs a heavy library asks for it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import maskaq_jax

PACKAGE = Path(maskaq_jax.__file__).parent

ARRAYS = ["quantizers", "regions", "losses", "augment"]
STEPS = ["calibration", "synthesis", "finetune", "evaluate", "parallel"]
# A module may import those before it.
ORDER = [
    "attention",
    "randomness",
    *ARRAYS,
    "models.layers",
    "models.vit",
    "models.registry",
    "models",
    "torch_import",
    *STEPS,
    "phases",
    "samples",
    "data",
    "config",
    "checkpoint",
    "report",
    "experiment",
    "run",
    "",
    "main",
    "assets",
    "assets.fashion_mnist",
    "assets.pack_images",
    "assets.train_teacher",
]


def _name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in PACKAGE.rglob("*.py")}


def _imports(path):
    """Dotted names of every import in a file, at its top or within."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _own_imports(name):
    for imported in _imports(MODULES[name]):
        if imported.split(".")[0] == "maskaq_jax":
            inner = imported.removeprefix("maskaq_jax").removeprefix(".")
            while inner not in MODULES:  # a function of the module
                inner = inner.rpartition(".")[0]
            yield inner


def test_every_module_has_its_place():
    assert sorted(ORDER) == sorted(MODULES)


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_up_the_list(name):
    for imported in _own_imports(name):
        # The package's `load` imports when it is called.
        assert name == "" or ORDER.index(imported) < ORDER.index(name), imported


@pytest.mark.parametrize("group", [ARRAYS, STEPS], ids=["arrays", "steps"])
def test_files_of_a_group_do_not_import_each_other(group):
    for name in group:
        assert not set(_own_imports(name)) & set(group)


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("ml_collections", {"config", "main"}),
        ("absl", {"main", "assets.pack_images", "assets.train_teacher"}),
        ("orbax", {"checkpoint"}),
        ("PIL", {"report"}),
        ("tensorboardX", {"report"}),
        ("torch", {"torch_import"}),
        ("tensorflow", set()),
        ("tensorflow_datasets", set()),
    ],
)
def test_edges_stay_at_the_edges(library, allowed):
    users = {
        name
        for name, path in MODULES.items()
        if any(imported.split(".")[0] == library for imported in _imports(path))
    }
    assert users <= allowed


@pytest.mark.parametrize("name", ORDER)
def test_a_file_does_one_thing(name):
    assert len(MODULES[name].read_text().splitlines()) <= 350


@pytest.mark.parametrize(
    ("imported", "absent"),
    [("maskaq_jax", ["jax"]), ("maskaq_jax.run", ["torch", "tensorflow", "tensorflow_datasets"])],
)
def test_importing_loads_no_more_than_needed(imported, absent):
    code = f"import sys, {imported}; print([m for m in {absent} if m in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert output.stdout.strip() == "[]"
