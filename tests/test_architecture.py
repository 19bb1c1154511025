"""The layering that the README shows: an import points up the list of files, never down."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "maskaq_jax"

# A file may import those of the lines above its own; files of one line don't know each other.
LAYERS = [
    ["attention", "head_moments", "ranges", "reductions"],
    ["distances", "pixels"],
    ["augment", "losses.distillation", "losses.images", "quantizers", "randomness", "regions"],
    ["backgrounds", "losses", "noise"],
    ["models.layer_norm"],
    ["models.layers"],
    ["models.self_attention"],
    ["models.swin", "models.vit"],
    ["models.registry"],
    ["models"],
    ["failures", "files", "hub", "run_files", "torch_architecture", "torch_names"],
    ["torch_import"],
    ["averaging", "microbatches"],
    ["calibration", "evaluate", "finetune", "parallel", "synthesis_terms"],
    ["synthesis"],
    ["first_images", "inception_score", "interruption", "programs"],
    ["phases"],
    ["memory", "paths", "schema"],
    ["preprocessing"],
    ["data", "samples"],
    ["image_folder", "tfds_images"],
    ["config"],
    ["checkpoint", "report", "sample_sheet", "schedule"],
    ["run_directory"],
    ["experiment"],
    ["background_choice", "batches", "measures"],
    ["results", "sources", "workload"],
    ["run"],
    ["main"],
]
ARRAYS = [*LAYERS[0], *LAYERS[1], *LAYERS[2], *LAYERS[3]]
PLACE = {module: place for place, layer in enumerate(LAYERS) for module in layer}
# How the embedded files were made: scripts that nothing imports.
ASSETS = "assets"


def _name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = {name: path for name, path in FILES.items() if name and not name.startswith(ASSETS)}
CONFIGS = {f"configs.{path.stem}": path for path in sorted((ROOT / "configs").glob("*.py"))}


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
        if package == "maskaq_jax":
            found.add(rest if rest in FILES else rest.rpartition(".")[0])
    return found


def _importers(dependency):
    """Files of the package and of configs/ that import a module or anything in it."""
    return {
        name
        for name, path in (FILES | CONFIGS).items()
        if any(f"{found}.".startswith(f"{dependency}.") for found in _imports(path))
    }


def test_every_module_has_a_place_in_the_order():
    assert sorted(MODULES) == sorted(PLACE)


def test_the_readme_shows_every_module_behind_those_that_it_imports():
    _, _, after = (ROOT / "README.md").read_text(encoding="utf-8").partition("| modules | what |")
    rows = [line.split("|")[1] for line in after.split("\n\n")[0].splitlines()[2:]]
    names = [name for row in rows for name in re.findall(r"`(\w+)/?`", row)]
    places = {name: place for place, name in enumerate(names)}
    tops = {module: module.partition(".")[0] for module in MODULES}
    assert sorted(names) == sorted({*tops.values()} - {"run", "main"})
    for module in MODULES.keys() - {"run", "main"}:
        others = {tops[other] for other in _imported_modules(MODULES[module])} - {tops[module]}
        assert all(places[other] < places[tops[module]] for other in others), module


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_up_the_order(module):
    down = {other for other in _imported_modules(MODULES[module]) if PLACE[other] >= PLACE[module]}
    assert not down, f"{module} imports {', '.join(sorted(down))}, which stand no higher than it"


def test_nothing_imports_the_scripts_beside_the_assets():
    for module, path in MODULES.items():
        assert not any(name.startswith(ASSETS) for name in _imported_modules(path)), module


def test_configs_know_fields_and_names_of_datasets_alone():
    for name, path in CONFIGS.items():
        assert _imported_modules(path) <= {"config", "data", "schema"}, name
        roots = {imported.partition(".")[0] for imported in _imports(path)}
        roots -= sys.stdlib_module_names
        assert roots <= {"configs", "maskaq_jax", "ml_collections"}, name


def test_array_code_needs_jax_and_little_else():
    # A dataclass that is a pytree, of which jax has none; pixels are the host's business too.
    excepted = {("quantizers", "flax.struct"), ("pixels", "numpy")}
    allowed = {"jax", "maskaq_jax", "dm_pix"} | sys.stdlib_module_names
    for module in ARRAYS:
        for name in _imports(MODULES[module]):
            is_allowed = name.partition(".")[0] in allowed or (module, name) in excepted
            assert is_allowed, (module, name)


@pytest.mark.parametrize(
    ("dependency", "importers"),
    [
        ("absl", {"main"}),
        (
            "flax.linen",
            {
                f"models.{name}"
                for name in ("layer_norm", "layers", "self_attention", "swin", "vit")
            },
        ),
        ("ml_collections", {"main", "config", "schema", *CONFIGS}),
        ("orbax", {"checkpoint"}),
        ("rich", {"report"}),
        ("tensorflow_datasets", {"tfds_images"}),
        ("torch", {"torch_import"}),
    ],
)
def test_a_dependency_is_known_where_it_belongs(dependency, importers):
    assert {name for name in _importers(dependency) if not name.startswith(ASSETS)} == importers


@pytest.mark.parametrize("name", [*FILES, *CONFIGS])
def test_a_file_is_read_in_one_sitting(name):
    path = (FILES | CONFIGS)[name]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


def _run(statements):
    return subprocess.run(
        [sys.executable, "-c", statements], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_the_package_loads_no_jax():
    assert _run("import sys, maskaq_jax; print('jax' in sys.modules)") == "False"
