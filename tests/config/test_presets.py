"""Presets are plain data, one in place of another, and every config takes them."""

import importlib
import operator
from pathlib import Path

import pytest

from maskaq_jax import config as config_lib
from maskaq_jax.config import DENSE_PRESETS, EMBEDDED_PRESETS, IMAGENET_PRESETS, SCENES_PRESETS

CONFIGS = {path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.py")} - {"common"}
# Fields that a model without classifier can't have, or has otherwise.
OF_CLASSIFIERS = {
    *("synthesis.num_steps", "synthesis.background"),
    *(f"synthesis.weights.{term}" for term in ("classes", "coupling", "entropy", "similarity")),
}


FAMILIES = {
    **dict.fromkeys(("smoke", "swin_fashion", "vit_fashion"), EMBEDDED_PRESETS),
    **dict.fromkeys(("scenes_upernet", "scenes_yolos"), SCENES_PRESETS),
}


@pytest.fixture(
    params=[EMBEDDED_PRESETS, IMAGENET_PRESETS, DENSE_PRESETS, SCENES_PRESETS],
    ids=["embedded", "imagenet", "dense", "scenes"],
)
def presets(request):
    return request.param


def test_a_preset_has_a_value_for_every_field_that_any_has(presets):
    for group in ("images", "training"):
        names = [set(getattr(preset, group)) for preset in presets.values()]
        assert all(other == names[0] for other in names)
    for name in {**presets["best"].images, **presets["best"].training}:
        config_lib.check_field(f"config.{name}")


def test_the_papers_values_are_the_defaults(presets):
    paper = presets["paper"].images | presets["paper"].training
    default = config_lib.Config()
    assert paper == {name: operator.attrgetter(name)(default) for name in paper}


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("training", ["best", "paper"])
@pytest.mark.parametrize("images", ["best", "paper"])
def test_every_config_takes_every_preset(name, training, images):
    presets = FAMILIES.get(name, IMAGENET_PRESETS)
    module = importlib.import_module(f"configs.{name}")
    argument = f"preset={training},images={images}"
    config = config_lib.validated(module.get_config(argument))
    given = presets[training].training | presets[images].images
    if not config.model.num_classes:
        given = {field: value for field, value in given.items() if field not in OF_CLASSIFIERS}
    assert {field: operator.attrgetter(field)(config) for field in given} == given


@pytest.mark.parametrize(
    ("model", "epochs", "of_own_images"),
    [("deit_tiny_patch16_224", 16, 24), ("yolos_tiny", 0, 0), ("upernet_swin_tiny", 0, 0)],
)
def test_classifiers_alone_are_trained_behind_their_fit(model, epochs, of_own_images):
    from_config = importlib.import_module("configs.common").imagenet_config
    assert from_config("", model=model, weights="").finetuning.epochs == epochs
    own = from_config("method=real", model=model, weights="")
    assert own.finetuning.epochs == of_own_images
    assert own.samples.num_samples == 96


@pytest.mark.parametrize("argument", ["preset=good", "images=good"])
def test_an_unknown_preset_is_named(argument):
    name = argument.partition("=")[0]
    with pytest.raises(config_lib.ConfigError, match=f"argument {name} 'good': did you mean"):
        importlib.import_module("configs.vit_fashion").get_config(argument)
