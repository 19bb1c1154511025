import json

import jax.numpy as jnp
import pytest

from configs import vit_fashion
from maskaq_jax import config as config_lib
from maskaq_jax.schema import ConfigError


@pytest.fixture
def settings():
    settings = config_lib.default()
    settings.model.weights = "embedded:vit_fashion"
    return settings


def test_the_paper_s_settings_are_valid_once_weights_are_named(settings):
    config = config_lib.validated(settings)
    assert config.synthesis.num_steps == 2000
    assert config.finetuning.epochs == 200


def test_the_default_settings_are_the_papers():
    """Those of `docs/method.md`."""
    config = config_lib.default()
    del config.synthesis.weights  # test_synthesis.py holds them to the reference
    assert config.synthesis.to_dict() == {
        "num_steps": 2000,
        "learning_rate": 0.1,
        "final_learning_rate": 0.001,
        "weight_decay": 1e-6,
        "view": {"roll": 16 / 224, "flip": 0.0, "brightness": 0.5, "colour": 1.0},
        "initial_ratio": 0.5,
        "final_ratio": 0.1,
        "drop_rate": 0.3,
        # Ours, off.
        "smoothness": 0.0,
        "smoothness_spread": 0.0,
        "contrast": 0.0,
        "background": "none",
        "balanced_labels": False,
        "first_images": "noise",
    }
    assert config.finetuning.to_dict() == {
        "epochs": 200,
        "batch_size": 16,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "quantizer_learning_rate": 1e-3,
        "final_learning_rate_ratio": 0.01,
        "output_distance": "kl",
        "temperature": 5.0,
        "attention_weight": 10.0,
        "attention_distance": "ssim",
        "important_ratio": 0.1,
        "important_weight": 2.0,
        "view": {
            **{"min_area": 0.08, "flip": 0.5, "jitter": 0.8, "grey": 0.2, "blur": 1.0},
            "shift": 0,
        },
        "relative_learning_rate": 0.0,
        "step_learning_rate": 0.0,
        "averaged_share": 0.0,
        "block_weight": 0.0,
    }
    assert config.samples.to_dict() == {
        "num_samples": 10_000,
        "batch_size": 32,
        "calibration": "synthetic",
        "calibration_size": 64,
        "refresh_every": 30,
        "real": "",
        "held_out": 0,
    }
    assert config.calibration.ranges == "lsq"
    assert not config.quantization.keeps_grids


def test_a_config_survives_json(settings):
    config = config_lib.validated(settings)
    assert config_lib.from_dict(json.loads(json.dumps(config_lib.as_dict(config)))) == config


def test_fields_that_were_added_are_no_part_of_the_identity_while_they_have_their_default(settings):
    config = config_lib.validated(settings)
    whole = config_lib.as_dict(config)
    del whole["calibration"], whole["samples"]["real"]
    del whole["quantization"]["keeps_grids"], whole["quantization"]["rules"]
    del whole["evaluation"]["order"]
    for name in ("resize", "shortest_edge", "multiple"):
        del whole["evaluation"]["preprocessing"][name]
    del whole["model"]["weights_key"], whole["samples"]["held_out"]
    del whole["synthesis"]["first_images"], whole["finetuning"]["relative_learning_rate"]
    assert config_lib.identity(config) == whole
    settings.calibration.ranges = "least_squares"
    fitted = config_lib.identity(config_lib.validated(settings))
    assert fitted["calibration"]["ranges"] == "least_squares"
    assert fitted["quantization"]["keeps_grids"]


def test_grids_are_kept_where_layers_are_fitted(settings):
    settings.calibration.ranges = "least_squares"
    assert config_lib.validated(settings).quantization.keeps_grids
    settings.calibration.ranges = "lsq"
    settings.quantization.keeps_grids = True
    assert not config_lib.validated(settings).quantization.keeps_grids


def test_rules_are_part_of_the_identity_and_survive_json(settings):
    without = config_lib.identity(config_lib.validated(settings))
    settings.quantization.rules = "head=8x8,blocks_*.mlp.fc2=4x8"
    config = config_lib.validated(settings)
    assert config_lib.identity(config) != without
    assert config_lib.from_dict(json.loads(json.dumps(config_lib.as_dict(config)))) == config
    # What is recorded is what was written; the model has names.
    assert config.quantization.rules == "head=8x8,blocks_*.mlp.fc2=4x8"
    assert "blocks_11.mlp.fc2=4x8" in config_lib.create_model(config).quantization.rules


def test_weights_must_be_named():
    with pytest.raises(ConfigError, match=r"config\.model\.weights is missing"):
        config_lib.validated(config_lib.default())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("method", "maskq", "did you mean 'maskaq'"),
        ("model.name", "deit_tiny", "did you mean 'deit_"),
        ("model.weights", "gone.safetensors", "no file gone.safetensors"),
        ("model.weights", "embedded:gone", "Expected one of embedded:swin_fashion"),
        ("model.weights", "embedded:vit_fashon", "did you mean 'embedded:vit_fashion'?"),
        ("model.arguments", {"image_size": 3}, "did you mean 'img_size'"),
        ("model.arguments", {"img_size": 225}, "img_size must be a multiple of patch_size"),
        ("pixels.mean", (0.5,), "config.pixels.mean must have a value for each of the model's 3"),
        ("quantization.weight_bits", 9, "weight_bits must be 2 to 8, or 32"),
        ("quantization.activation_bits", 1, "activation_bits must be 2 to 8, or 32"),
        (
            "quantization.rules",
            "head=9x8",
            "config.quantization: rule 'head=9x8': weight_bits must",
        ),
        ("quantization.rules", "fc2=4x8", "config.quantization.rules: rule 'fc2=4x8' matches no"),
        ("samples.num_samples", 0, "config.samples.num_samples must be positive, got 0"),
        ("samples.calibration", "real", "unknown config.samples.calibration 'real'"),
        ("samples.refresh_every", -1, "config.samples.refresh_every must not be negative"),
        ("synthesis.initial_ratio", 1.5, "must be between 0 and 1, got 1.5"),
        ("synthesis.num_steps", -1, "config.synthesis.num_steps must not be negative"),
        ("finetuning.optimizer", "lamb", "unknown config.finetuning.optimizer 'lamb'"),
        ("finetuning.attention_distance", "l2", "did you mean 'l1'"),
        ("evaluation.dataset", "imagnet", "unknown config.evaluation.dataset"),
        ("evaluation", {"dataset": "tfds:imagenet2012"}, "config.evaluation.split is missing"),
        ("evaluation", {"dataset": "fashion_mnist", "split": "test"}, "images of 28 x 28 pixels"),
        ("evaluation", {"dataset": "folder", "path": "gone"}, "config.evaluation.path: no folder"),
        ("evaluation", {"dataset": "folder"}, "config.evaluation.path is missing: name a folder"),
        ("evaluation.dataset", "tfds:", "unknown config.evaluation.dataset 'tfds:'"),
        (
            "evaluation.path",
            "val",
            "config.evaluation.path is set, but config.evaluation.dataset '' ",
        ),
        (
            "evaluation",
            {"dataset": "tfds:a", "labels": "b"},
            "config.evaluation.labels is set, but",
        ),
        ("model.num_classes", 0, "config.synthesis.weights.classes must be 0, got 1.0"),
        ("seed", -1, "config.seed must not be negative"),
        ("pixels.mean", (123.7, 116.3, 103.5), "config.pixels.mean[0] must be between 0 and 1"),
        (
            "pixels.std",
            (58.4, 57.1, 57.4),
            "config.pixels.std[0] must be between 0 and 1, got 58.4",
        ),
        ("pixels.std", (0.2, 0.0, 0.2), "config.pixels.std[1] must be positive, got 0.0"),
        ("finetuning.view", {"min_area": 0.0}, "view.min_area must be positive, got 0.0"),
        ("finetuning.view", {"min_area": 1.5}, "view.min_area must be between 0 and 1, got 1.5"),
        ("finetuning.step_learning_rate", 1.0, "step_learning_rate must be below 1, got 1.0"),
        ("model.num_classes", -1, "config.model.num_classes must not be negative, got -1"),
    ],
)
def test_impossible_values_are_named(settings, field, value, message):
    settings.unlock()
    settings.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError) as error:
        config_lib.validated(settings)
    assert message in str(error.value)


def test_only_whole_images_have_a_background_to_choose(settings):
    settings.model.name, settings.model.arguments = "yolos_tiny", {}
    settings.synthesis.background = "auto"
    with pytest.raises(ConfigError, match="'yolos_tiny', a model for detection, and a"):
        config_lib.validated(settings)


def test_a_model_of_maps_has_no_classes_to_synthesise(settings):
    settings.model.name, settings.model.arguments = "swin_fpn_tiny", {"img_size": 224}
    settings.model.num_classes, settings.synthesis.weights.classes = 0, 0.3
    with pytest.raises(
        ConfigError, match=r"has no classes, so config\.synthesis\.weights\.classes"
    ):
        config_lib.validated(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sede": 1}, "unknown field config.sede: did you mean 'seed'?"),
        ({"samples": {"num": 1}}, "unknown field config.samples.num: did you mean 'num_samples'?"),
        ({"synthesis": {"view": {"rol": 1.0}}}, "config.synthesis.view.rol: did you mean 'roll'?"),
        ({"seed": "one"}, "config.seed must be an integer, got 'one'"),
        ({"seed": True}, "config.seed must be an integer, got True"),
        ({"samples": 3}, "config.samples must be a group of fields, got 3"),
        ({"pixels": {"mean": 0.5}}, "config.pixels.mean must be a list, got 0.5"),
        ({"pixels": {"mean": ["a"]}}, "config.pixels.mean[0] must be a number, got 'a'"),
    ],
)
def test_unknown_fields_and_wrong_types_are_named(change, message):
    with pytest.raises(ConfigError) as error:
        config_lib.from_dict(change)
    assert message in str(error.value)


def test_an_unknown_embedded_split_is_named():
    config = vit_fashion.get_config()
    config.evaluation.split = "tset"
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        config_lib.validated(config)


def test_what_makes_no_images_needs_no_loss_of_them(settings):
    for name in settings.synthesis.weights:
        settings.synthesis.weights[name] = 0.0
    with pytest.raises(ConfigError, match="all 0: nothing to optimise"):
        config_lib.validated(settings)
    settings.method = "noise"
    config_lib.validated(settings)


def test_a_dtype_is_given_by_name(settings):
    settings.model.arguments = {"dtype": jnp.bfloat16}
    with pytest.raises(ConfigError, match=r"config\.model\.arguments\.dtype must be a name"):
        config_lib.validated(settings)


def test_a_malformed_address_of_weights_is_told(settings):
    settings.model.weights = "hf://vit"
    with pytest.raises(ValueError, match="'hf://vit' should read hf://organisation/name"):
        config_lib.validated(settings)


def test_a_model_without_classes_cannot_distil_them(settings):
    settings.model.num_classes = 0
    settings.synthesis.weights.classes = 0.0
    with pytest.raises(ConfigError, match="output_distance must be 'cosine' or 'mse', got 'kl'"):
        config_lib.validated(settings)
    settings.finetuning.output_distance = "cosine"
    assert config_lib.validated(settings).model.num_classes == 0


def test_a_field_is_found_by_its_path():
    config_lib.check_field("config.synthesis.view.roll")
    config_lib.check_field("config.model.arguments.img_size")
    with pytest.raises(ConfigError, match="did you mean 'roll'"):
        config_lib.check_field("config.synthesis.view.rolls")
