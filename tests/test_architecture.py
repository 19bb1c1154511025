"""The house: which room may know which, as one sentence of `docs/develop.md` says."""

import ast
import contextlib
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "maskaq_jax"
# Outside the sentence: the public face, and how the embedded files were made.
OUTSIDE = ("", "assets")


def _name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
CONFIGS = {f"configs.{path.stem}": path for path in sorted((ROOT / "configs").glob("*.py"))}


def _room(module):
    return module.partition(".")[0]


def _sentence():
    """The rule in words, and its rooms: those between two bars in one set, from left to right."""
    text = (ROOT / "docs" / "develop.md").read_text(encoding="utf-8")
    ((words, rooms),) = re.findall(r"> \*\*A (file may [^:]*):\*\*\n((?:> .*\n)+)", text)
    parts = rooms.replace("> ", " ").split("|")
    return " ".join(words.replace("\n> ", " ").split()), [set(re.findall(r"\w+", p)) for p in parts]


WORDS, ROOMS = _sentence()
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
MODULES = {name: path for name, path in FILES.items() if _room(name) not in OUTSIDE}


def _imports(path):
    """Dotted names of all that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _imported_modules(path):
    """The package's own modules among them."""
    found = set()
    for name in _imports(path):
        package, _, rest = name.partition(".")
        if package == "maskaq_jax" and rest != "__version__":
            found.add(rest if rest in FILES else rest.rpartition(".")[0])
    return found


def _importers(dependency):
    """Files of the package and of configs/ that import a module or anything in it."""
    return {
        name
        for name, path in (FILES | CONFIGS).items()
        if any(f"{found}.".startswith(f"{dependency}.") for found in _imports(path))
    }


def test_readme_has_the_sentence():
    assert WORDS in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_sentence_names_every_room():
    assert sorted({_room(name) for name in MODULES}) == sorted(FLOOR)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_to_the_left(module):
    room = _room(module)
    others = {_room(other) for other in _imported_modules(MODULES[module])} - {room}
    wrong = {other for other in others if other in OUTSIDE or FLOOR[other] >= FLOOR[room]}
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"


def test_no_imports_go_in_circles_inside_a_room():
    inside = {
        module: {other for other in _imported_modules(path) if _room(other) == _room(module)}
        for module, path in MODULES.items()
    }
    while free := {module for module, others in inside.items() if not others & inside.keys()}:
        inside = {module: others for module, others in inside.items() if module not in free}
    assert not inside, f"in circles: {sorted(inside)}"


def test_a_private_file_is_known_in_its_room_alone():
    for module, path in MODULES.items():
        for other in _imported_modules(path):
            if other.rpartition(".")[2].startswith("_"):
                assert _room(other) == _room(module), (module, other)


def test_configs_know_fields_and_names_of_datasets_alone():
    for name, path in CONFIGS.items():
        assert {_room(found) for found in _imported_modules(path)} <= {"config", "data", "schema"}
        roots = {imported.partition(".")[0] for imported in _imports(path)}
        roots -= sys.stdlib_module_names
        assert roots <= {"configs", "maskaq_jax", "ml_collections"}, name


@pytest.mark.parametrize("room", ["quantizers", "regions", "losses", "images"])
def test_array_code_needs_jax_and_little_else(room):
    # A dataclass that is a pytree, of which jax has none; pixels are the host's business too.
    excepted = {("quantizers.fake", "flax.struct"), ("images.pixels", "numpy")}
    allowed = {"jax", "maskaq_jax", "chex", "dm_pix"} | sys.stdlib_module_names
    for module in (name for name in MODULES if _room(name) == room):
        for name in _imports(MODULES[module]):
            is_allowed = name.partition(".")[0] in allowed or (module, name) in excepted
            assert is_allowed, (module, name)


@pytest.mark.parametrize(
    ("dependency", "rooms"),
    [
        ("absl", {"main"}),
        ("ai_edge_litert", {"export"}),
        ("faster_coco_eval", {"evaluation"}),
        ("flax.linen", {"models", "calibration"}),
        ("litert_converter", {"export"}),
        ("matplotlib", {"report"}),
        ("ml_collections", {"main", "config", "schema", "configs"}),
        ("onnx", {"export"}),
        ("onnxruntime", {"export"}),
        ("orbax", {"runs"}),
        ("rich", {"runs", "sensitivity"}),
        ("tensorflow_datasets", {"data"}),
        ("torch", {"torch_import"}),
    ],
)
def test_a_dependency_is_known_where_it_belongs(dependency, rooms):
    assert {_room(name) for name in _importers(dependency)} - {"assets"} == rooms


def test_the_package_has_few_names_at_its_top():
    tops = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert len(tops) <= 26, sorted(tops)


def _run(statements):
    return subprocess.run(
        [sys.executable, "-c", statements], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_the_package_loads_no_jax():
    assert _run("import sys, maskaq_jax; print('jax' in sys.modules)") == "False"


def test_packed_codes_are_read_without_the_onnx_extra():
    statements = "import sys; sys.modules['onnx'] = None; import maskaq_jax.export, maskaq_jax.run"
    loaded = "print([name for name in sys.modules if name.startswith(('onnx.', 'onnxruntime'))])"
    assert _run(f"{statements}; {loaded}") == "[]"


def test_importing_the_package_looks_for_no_extra():
    """Whether they are installed or not."""
    names = ("tensorflow", "tensorflow_datasets", "torch", "onnx", "onnxruntime")
    program = f"""
import importlib.abc, sys

class Recorder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in {names}:
            print(name)

sys.meta_path.insert(0, Recorder())
import maskaq_jax, maskaq_jax.api, maskaq_jax.data, maskaq_jax.main, maskaq_jax.run
"""
    assert _run(program) == ""


def test_importing_the_algorithm_asks_for_no_device():
    """A process joins the others before JAX's first computation, which this would make fail."""
    assert _run("import os; os.environ['JAX_PLATFORMS'] = 'none'; import maskaq_jax.run") == ""


_MOST_LINES = 60


@pytest.mark.parametrize("folder", ["maskaq_jax", "configs", "benchmarks", "tests"])
def test_functions_can_be_read_at_a_glance(folder):
    """Bodies, their docstrings left out."""
    long = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[ast.get_docstring(node) is not None :]
                if body and body[-1].end_lineno - body[0].lineno >= _MOST_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert long == []


def _is_private(name):
    # What ends with one too is a protocol of others, as `_repr_html_` of notebooks.
    return isinstance(name, str) and name.startswith("_") and not name.endswith("_")


def _is_tested(module):
    return module.partition(".")[0] in ("maskaq_jax", "benchmarks", "configs")


def _tested_names(tree):
    """Names that a file binds by its imports of what is tested."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_tested(node.module):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            tested = [alias for alias in node.names if _is_tested(alias.name)]
            yield from (alias.asname or alias.name.partition(".")[0] for alias in tested)


def _root(node):
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return getattr(node, "id", None)


def _private_uses(text):
    """Private names of what is tested that a file reads, replaces or imports, in its programs too.

    As far as names of imports lead to them: of an instance nobody can tell what it is of.
    """
    tree = ast.parse(text)
    tested = set(_tested_names(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_tested(node.module):
            yield from (alias.name for alias in node.names if _is_private(alias.name))
        elif isinstance(node, ast.Attribute) and _root(node.value) in tested:
            # A namedtuple's own methods are public in spite of their names.
            if _is_private(node.attr) and node.attr not in ("_replace", "_asdict", "_fields"):
                yield node.attr
        elif isinstance(node, ast.Call):  # of setattr and the like: an object and a name
            for one, other in itertools.pairwise(node.args):
                if _root(one) in tested and _is_private(getattr(other, "value", None)):
                    yield other.value
        elif isinstance(node, ast.Constant) and "import" in str(node.value):
            with contextlib.suppress(SyntaxError):
                yield from _private_uses(str(node.value))


@pytest.mark.parametrize(
    "text",
    [
        "from maskaq_jax.images.views import _blur",
        "from maskaq_jax import main\nmain._run()",
        "import maskaq_jax.main\nmaskaq_jax.main._run()",
        "from maskaq_jax import main\npatch.setattr(main, '_run', print)",
        "from benchmarks import growth as bench\nbench.make()._values",
        "PROGRAM = 'from maskaq_jax import main\\nmain._run()'",
    ],
)
def test_private_uses_are_found(text):
    assert len(list(_private_uses(text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "from maskaq_jax.export import __main__ as command\ncommand.main()",
        "import re\nre._cache",
        "import maskaq_jax\nmaskaq_jax.load()._repr_html_()",
    ],
)
def test_other_names_are_left_alone(text):
    assert list(_private_uses(text)) == []


def test_tests_know_no_private_name():
    """What users don't see, tests don't either: they stay as they are when it is written anew."""
    others = [path for path in sorted((ROOT / "tests").rglob("*.py")) if path != Path(__file__)]
    found = {
        str(path.relative_to(ROOT)): uses
        for path in others
        if (uses := list(_private_uses(path.read_text(encoding="utf-8"))))
    }
    assert found == {}
