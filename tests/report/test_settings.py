import pytest

from maskaq_jax import config as config_lib
from maskaq_jax.config import files
from maskaq_jax.report import settings


def _config(name, argument):
    module = files.load(files.find(f"configs/{name}.py"))
    return config_lib.validated(module.get_config(argument))


@pytest.mark.parametrize(
    ("name", "argument", "preset"),
    [
        ("vit_fashion", "", "best, of the embedded models"),
        ("vit_fashion", "method=mimiq", "best, of the embedded models"),
        ("vit_fashion", "preset=paper", "paper"),
        ("deit_t", "", "best, of ImageNet models"),
        ("deit_t", "preset=paper", "paper"),
    ],
)
def test_the_preset_is_known_by_its_fields_and_none_of_them_differs(name, argument, preset):
    found, fields = settings.compare(_config(name, argument))
    assert found == preset
    differing = {field.name for field in fields if field.standard is not None}
    assert not {field.name for field in fields if field.of_preset} & differing
    assert "model.weights" in differing


def test_what_differs_is_shown_beside_the_preset_s():
    config = config_lib.default()
    config.update_from_flattened_dict(
        config_lib.EMBEDDED_PRESETS["best"].images | config_lib.EMBEDDED_PRESETS["best"].training
    )
    config.finetuning.learning_rate = 0.25
    config.model.arguments = {"depth": 2}
    config.pixels.grey = True
    _, fields = settings.compare(config_lib.from_dict(config.to_dict()))
    by_name = {field.name: field for field in fields}
    assert by_name["finetuning.learning_rate"][1:] == ("0.25", "0.0005", True)
    assert by_name["model.arguments.depth"][1:] == ("2", "not set", False)
    assert by_name["pixels.grey"][1:] == ("true", "false", False)
    assert by_name["model.weights"][1:] == ("empty", None, False)
    assert sum(field.standard is not None for field in fields) == 3
