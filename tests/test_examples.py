"""What docstrings and README show is what comes out, and the reference shows an example of each."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import maskaq_jax
from maskaq_jax import api, models, regions
from maskaq_jax.calibration import first_ranges, layerwise
from maskaq_jax.data import embedded
from maskaq_jax.devices import arrays
from maskaq_jax.export import packed
from maskaq_jax.losses import distillation, images, outputs, targets
from maskaq_jax.models import Quantization, layers, registry
from maskaq_jax.quantizers import codes, fake, ranges
from maskaq_jax.report import markup, writing
from maskaq_jax.sensitivity import tensors
from maskaq_jax.torch_import import convert
from tests import tiny

pytestmark = tiny.ignore_orbax_warnings

ROOT = Path(__file__).parents[1]
REFERENCE = sorted((ROOT / "docs" / "reference").glob("*.md"))
NAMES = [name for page in REFERENCE for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)]
ARRAYS = [
    *(arrays, codes, distillation, embedded, fake, images, layers, markup, outputs, ranges),
    *(regions, registry, targets),
]

# A config of the name that examples have: what is there comes before what ships.
TINY = """
from configs import common

FIELDS = {
    "model.name": "vit",
    "model.arguments": {arguments},
    "model.weights": "vit.safetensors",
    "evaluation.preprocessing.crop_ratio": 1.0,
}
SMALL = {
    "evaluation.split": "validation",
    "samples.num_samples": 4,
    "samples.batch_size": 4,
    "samples.refresh_every": 0,
    "synthesis.num_steps": 2,
    "finetuning.epochs": 1,
    "finetuning.batch_size": 4,
}


def get_config(argument=None):
    return common.fashion_config(argument, FIELDS | SMALL)
"""


@pytest.fixture
def params(tmp_path, monkeypatch):
    """Weights, in a directory with their file, pictures, and a config that takes seconds."""
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/vit_fashion.py").write_text(TINY.replace("{arguments}", repr(tiny.ARGUMENTS)))
    for name in ("cat.jpg", "dog.png"):
        Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(name)
    model = models.create_model("vit", 10, **tiny.ARGUMENTS)
    return tiny.save_random_weights(model, "vit.safetensors")


def _run(module, **names):
    result = doctest.testmod(module, extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("module", ARRAYS, ids=lambda module: module.__name__)
def test_examples_of_docstrings_are_true(module):
    _run(module)


def test_examples_of_calibration_and_of_weights_are_true(params):
    model = models.create_model("vit", 10, Quantization(4, 8), **tiny.ARGUMENTS)
    pictures = jax.random.normal(jax.random.key(0), (2, 28, 28, 3))
    _run(first_ranges, model=model, params=params, images=pictures)
    _run(convert, model=models.full_precision(model), images=pictures)
    _run(tensors, model=model, params=params, images=pictures)


@pytest.mark.slow  # many programs to compile
def test_examples_of_a_fit_are_true(params):
    quantization = Quantization(4, 8, keeps_grids=True)
    model = models.create_model("vit", 10, quantization, **tiny.ARGUMENTS)
    pictures = jax.random.normal(jax.random.key(0), (2, 28, 28, 3))
    _run(layerwise, model=model, params=params, images=pictures)


@pytest.mark.slow  # two whole runs
@pytest.mark.usefixtures("params")
def test_examples_of_runs_and_of_the_readme_are_true(capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = {}
    first, without_jax = _pythons_of(readme, "## From Python")
    exec(first, names)
    capsys.readouterr()
    exec(without_jax, {})
    assert int(capsys.readouterr().out) in range(10)
    quantized = names["quantized"]
    assert Path("vit_fashion.onnx").stat().st_size > 0
    assert set(quantized.results) <= set(_documented_results())

    shown = {"maskaq_jax": maskaq_jax, "quantized": quantized, "workdir": quantized.workdir}
    _run(maskaq_jax, **shown)
    _run(api, **shown)
    _run(writing, **shown)
    quantized.export("model.safetensors")
    pictures = maskaq_jax.read_images(quantized.workdir, ["cat.jpg"])
    _run(packed, images=jnp.asarray(pictures), **shown)


def _pythons_of(page, heading):
    """The blocks of Python below a heading, up to the next one."""
    section, *_ = page.partition(heading)[2].partition("\n## ")
    return re.findall(r"```python\n(.*?)```", section, re.S)


def _documented_results():
    page = (ROOT / "docs" / "reference" / "results.md").read_text(encoding="utf-8")
    _, _, table = page.partition("## `results.json`")
    rows = re.findall(r"^\| (`.*?) \|", table, re.M)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def test_the_reference_has_the_public_face():
    shown = {_resolve(name) for name in NAMES}
    assert {getattr(maskaq_jax, name) for name in maskaq_jax.__all__} <= shown


@pytest.mark.parametrize("name", NAMES)
def test_all_that_the_reference_lists_has_an_example(name):
    found = _resolve(name)
    assert inspect.getdoc(found)
    if found is maskaq_jax.Quantized:
        assert all(">>>" in inspect.getdoc(method) for method in (found.logits, found.export))
    elif not inspect.isclass(found):
        assert ">>>" in inspect.getdoc(found)


def _resolve(name):
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)
