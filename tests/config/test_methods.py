"""A method is chosen by its name alone, however that is given."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from PIL import Image

from maskaq_jax import config as config_lib
from maskaq_jax.config import METHODS
from maskaq_jax.schema import ConfigError
from maskaq_jax.synthesis.terms import LossWeights

ROOT = Path(__file__).parents[2]
CONFIGS = sorted({path.stem for path in (ROOT / "configs").glob("*.py")} - {"common"})
FORERUNNERS = [name for name, method in METHODS.items() if not method.refreshes]
# Every ImageNet config, and those whose images are made by other settings than the paper's.
EMBEDDED = ("smoke", "swin_fashion", "vit_fashion")


def _get(name, argument=""):
    return importlib.import_module(f"configs.{name}").get_config(argument)


def _chosen(config, method):
    """As by `--config.method`."""
    config.method = method
    return config_lib.validated(config)


def _weights(config):
    return {k: v for k, v in dataclasses.asdict(config.synthesis.weights).items() if v}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("method", [name for name in METHODS if name != "real"])
@pytest.mark.parametrize("preset", ["best", "paper"])
def test_the_field_and_the_argument_say_the_same(name, method, preset):
    by_field = _chosen(_get(name, f"preset={preset}"), method)
    by_argument = config_lib.validated(_get(name, f"preset={preset},method={method}"))
    assert by_field == by_argument
    assert by_field.method == method
    # And twice is as good as once.
    assert config_lib.validated(ConfigDict(config_lib.as_dict(by_field))) == by_field


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_method_can_be_given_back(name):
    assert _chosen(_get(name, "method=psaq"), "maskaq") == config_lib.validated(_get(name))


@pytest.mark.parametrize("method", config_lib.SYNTHESIS_METHODS)
def test_the_default_weights_become_the_published_ones(method):
    config = config_lib.default()
    config.model.weights = "embedded:vit_fashion"
    assert _weights(_chosen(config, method)) == METHODS[method].terms


def test_a_method_weighs_terms_of_maskaq_its_own_way(monkeypatch):
    method = dataclasses.replace(METHODS["psaq"], terms={"similarity": 5.0, "density": 2.0})
    monkeypatch.setitem(METHODS, "psaq", method)
    config = config_lib.default()
    config.model.weights = "embedded:vit_fashion"
    config.synthesis.weights.entropy = 0.0
    assert _weights(_chosen(config, "psaq")) == method.terms
    config.synthesis.weights.similarity = 0.3
    assert _weights(_chosen(config, "psaq")) == {"similarity": 0.3, "density": 2.0}


def test_forerunners_make_images_once_and_weigh_patches_alike():
    assert FORERUNNERS == ["mimiq", "psaq"]
    for method in FORERUNNERS:
        config = _chosen(_get("vit_fashion"), method)
        assert config.samples.refresh_every == 0
        assert config.finetuning.important_weight == 1.0


@pytest.mark.parametrize("method", ["noise", "real"])
def test_what_makes_no_images_leaves_the_config_as_it_is(method):
    config = config_lib.validated(_get("vit_fashion"))
    chosen = _chosen(_get("vit_fashion"), method)
    assert dataclasses.replace(chosen, method="maskaq") == config


@pytest.mark.parametrize(
    ("method", "term", "weight"),
    [
        ("mimiq", "coupling", 0.2),
        ("psaq", "total_variation", 1e-3),
        ("maskaq", "density", 1.0),
    ],
)
def test_a_users_weight_of_a_term_that_the_method_lacks_is_refused(method, term, weight):
    config = _get("vit_fashion")
    config.synthesis.weights[term] = weight
    message = f"'{method}', whose loss has no {term}: config.synthesis.weights.{term} must be 0"
    with pytest.raises(ConfigError, match=f"{re.escape(message)}, got {weight}"):
        _chosen(config, method)


def test_a_users_weight_of_the_methods_own_term_stays():
    config = _get("vit_fashion")
    config.synthesis.weights.density = 0.5
    config.synthesis.weights.classes = 0.0
    assert _weights(_chosen(config, "psaq")) == {"density": 0.5, "variation_gap": 0.05}


def test_a_part_left_out_stays_left_out():
    config = config_lib.validated(_get("vit_fashion", "without=coupling"))
    assert config.synthesis.weights.coupling == 0.0


@pytest.mark.parametrize("part", config_lib.ABLATIONS)
@pytest.mark.parametrize("method", ["mimiq", "noise"])
def test_no_other_method_has_a_part_to_leave_out_however_it_is_given(part, method):
    message = f"a part of MaskAQ, but the method is '{method}'"
    with pytest.raises(ConfigError, match=message):
        _get("vit_fashion", f"without={part},method={method}")
    with pytest.raises(ConfigError, match=message):
        _chosen(_get("vit_fashion", f"without={part}"), method)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of as many images as a fit takes."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (1, 1)).save(folder / "0.png")
    for number in range(1, 384):
        (folder / f"{number}.png").symlink_to(folder / "0.png")
    return folder


def _of_pictures(argument, pictures, **samples):
    """As by `--config.method=real --config.samples.real=FOLDER`, and other fields."""
    config = _get("deit_t", argument)
    config.samples.real = str(pictures)
    config.samples.update(samples)
    return _chosen(config, "real")


@pytest.mark.parametrize("arguments", ["", "preset=paper,images=best"])
def test_images_of_ones_own_are_as_many_however_the_method_is_given(arguments, pictures):
    by_field = _of_pictures(arguments, pictures)
    by_argument = _get("deit_t", f"method=real,real={pictures},{arguments}")
    assert by_field == config_lib.validated(by_argument)
    assert (by_field.samples.num_samples, by_field.samples.calibration_size) == (96, 96)
    assert by_field.calibration == config_lib.validated(_get("deit_t", arguments)).calibration
    # And back again.
    by_argument.samples.real = ""
    assert _chosen(by_argument, "maskaq") == config_lib.validated(_get("deit_t", arguments))


@pytest.mark.parametrize("argument", ["", "method=real"])
def test_a_users_number_of_images_stays(argument, pictures):
    samples = _of_pictures(argument, pictures, num_samples=384, calibration_size=100).samples
    assert (samples.num_samples, samples.calibration_size) == (384, 100)


def test_a_stored_config_is_read_as_it_is():
    values = config_lib.as_dict(config_lib.validated(_get("vit_fashion"))) | {"method": "mimiq"}
    assert config_lib.as_dict(config_lib.from_dict(values)) == values


def test_terms_of_methods_are_those_that_there_are():
    terms = {field.name for field in dataclasses.fields(LossWeights)}
    assert {term for method in METHODS.values() for term in method.terms} == terms


def test_the_docs_describe_every_method():
    page = (ROOT / "docs" / "how-to" / "arguments.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `method` \|.*$", page, re.MULTILINE)
    for name, method in METHODS.items():
        assert f"`{name}`: {method.description}" in row
