"""Every config file loads, is valid and says how to run it."""

import importlib
import operator
from pathlib import Path

import pytest
from flax import traverse_util

from maskaq_jax import config as config_lib

NAMES = {path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.py")} - {"common"}
BACKBONES = {"vit_t", "vit_b", "deit_t", "deit_s", "deit_b", "swin_t"}
FEATURE_BACKBONES = {"dinov2_s"}
SCENES = {"scenes_upernet", "scenes_yolos"}


def _import(name):
    return importlib.import_module(f"configs.{name}")


@pytest.fixture(params=sorted(NAMES - BACKBONES - FEATURE_BACKBONES - SCENES))
def module(request):
    """An embedded experiment on a classifier."""
    return _import(request.param)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("", "auto"),
        ("method=psaq", "auto"),
        ("preset=paper", "none"),
        ("images=paper", "none"),
        ("background=none", "none"),
        ("background=white,preset=paper", "white"),
    ],
)
def test_the_best_images_have_a_background_unless_told_otherwise(module, argument, expected):
    config = config_lib.validated(module.get_config(argument))
    assert config.synthesis.background == expected


@pytest.mark.parametrize("name", sorted(SCENES))
@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("", "black"),
        ("method=psaq", "black"),
        ("preset=paper", "none"),
        ("background=none", "none"),
    ],
)
def test_images_for_scenes_stand_on_black_unless_told_otherwise(name, argument, expected):
    config = config_lib.validated(_import(name).get_config(argument))
    assert config.synthesis.background == expected


@pytest.mark.parametrize("name", sorted(SCENES))
def test_scenes_are_evaluated_on_those_of_the_split_that_is_asked_for(name, tmp_path):
    get_config = _import(name).get_config
    for argument, split in (("", "test"), ("split=validation", "validation")):
        config = config_lib.validated(get_config(argument))
        assert config_lib.evaluation_source(config).name == f"scenes {split}"
    with pytest.raises(config_lib.ConfigError, match="'folder' has labelled images, for classif"):
        config_lib.validated(get_config(f"val={tmp_path}"))


@pytest.mark.parametrize("name", sorted(BACKBONES))
@pytest.mark.parametrize("method", ["maskaq", "mimiq", "psaq", "noise"])
def test_a_backbone_can_have_the_papers_settings(name, method, tmp_path):
    get_config = _import(name).get_config
    argument = f"preset=paper,w=3,a=8,method={method},seed=2,val={tmp_path}"
    config = config_lib.validated(get_config(argument))
    assert (config.quantization.weight_bits, config.quantization.activation_bits) == (3, 8)
    assert (config.method, config.seed) == (method, 2)
    assert (config.evaluation.dataset, config.evaluation.path) == ("folder", str(tmp_path))
    paper = config_lib.default()
    same = get_config("preset=paper")
    for group in ("samples", "synthesis", "finetuning", "evaluation"):
        assert same[group] == paper[group]


def test_the_best_settings_differ_from_the_papers_as_the_table_says(module):
    """That of `docs/settings.md`."""
    changes = {}
    flat = [
        traverse_util.flatten_dict(module.get_config(f"preset={preset}").to_dict(), sep=".")
        for preset in ("paper", "best")
    ]
    for name in flat[0]:
        before, after = (fields[name] for fields in flat)
        if before != after:
            changes[name] = after
    assert changes == {
        "synthesis.smoothness": 0.07,
        "synthesis.smoothness_spread": 1.2,
        "synthesis.contrast": 1.0,
        "synthesis.background": "auto",
        "synthesis.weights.similarity": 0.1,
        "synthesis.weights.classes": 0.3,
        "synthesis.balanced_labels": True,
        "synthesis.view.brightness": 0.0,
        "synthesis.view.colour": 0.0,
        "finetuning.view.min_area": 1.0,
        "finetuning.view.shift": 2,
        "finetuning.view.jitter": 0.0,
        "finetuning.view.grey": 0.0,
        "finetuning.view.blur": 0.0,
        "finetuning.optimizer": "adam",
        "finetuning.learning_rate": 5e-4,
        "finetuning.quantizer_learning_rate": 4e-2,
        "finetuning.step_learning_rate": 0.05,
        "finetuning.averaged_share": 0.5,
        "finetuning.attention_weight": 0.1,
        "finetuning.block_weight": 1.0,
    }


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INCEPTION = ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("names", "normalisation", "crop_ratio"),
    [
        (("vit_t", "vit_b"), INCEPTION, 0.9),
        (("deit_t", "deit_s", "deit_b", "swin_t"), IMAGENET, 0.9),
        (("dinov2_s",), IMAGENET, 1.0),
    ],
)
def test_images_are_prepared_as_timm_says_for_the_weights(names, normalisation, crop_ratio):
    for name in names:
        config = config_lib.validated(_import(name).get_config())
        assert (config.pixels.mean, config.pixels.std) == normalisation
        assert config.evaluation.preprocessing.crop_ratio == crop_ratio
        assert config.evaluation.preprocessing.interpolation == "bicubic"


def test_a_backbone_without_classifier_is_distilled_by_its_features():
    config = config_lib.validated(_import("dinov2_s").get_config("w=3,a=8"))
    assert config.model.num_classes == 0
    assert config.synthesis.weights.classes == 0
    assert config.finetuning.output_distance == "cosine"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_config_says_how_to_run_it(name):
    assert f"python -m maskaq_jax.main --config=configs/{name}.py" in _import(name).__doc__


def test_images_and_training_can_have_settings_of_their_own(module):
    mixed, best, paper = (
        module.get_config(argument) for argument in ("images=paper", "preset=best", "preset=paper")
    )
    assert mixed.synthesis == paper.synthesis != best.synthesis
    assert mixed.finetuning == best.finetuning != paper.finetuning


def test_it_is_valid_whatever_its_arguments(module):
    for method in config_lib.METHODS:
        for preset in ("best", "paper"):
            argument = f"method={method},preset={preset},w=4,a=8,seed=5,split=validation"
            config = config_lib.validated(module.get_config(argument))
            assert config.method == method
            assert config.quantization.weight_bits == 4
            assert config.quantization.activation_bits == 8
            assert config.seed == 5
            assert config.evaluation.split == "validation"


@pytest.mark.parametrize("part", config_lib.ABLATIONS)
def test_parts_of_maskaq_can_be_left_out(module, part):
    def values(argument):
        config = module.get_config(argument)
        return {path: operator.attrgetter(path)(config) for path in config_lib.ABLATIONS[part]}

    assert values(f"without={part}") == config_lib.ABLATIONS[part]
    whole = values("")
    assert all(whole[path] != value for path, value in config_lib.ABLATIONS[part].items())


def test_an_unknown_part_is_named(module):
    with pytest.raises(config_lib.ConfigError, match="without 'mask': did you mean 'masking'"):
        module.get_config("without=mask")


def test_methods_differ_in_the_samples_alone(module):
    methods = {name: module.get_config(f"method={name}") for name in ("maskaq", "noise", "real")}
    for config in methods.values():
        config.method = "maskaq"
    assert methods["maskaq"] == methods["noise"] == methods["real"]


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        ("mimiq", {"coupling", "entropy"}),
        (
            "psaq",
            {"coupling", "entropy", "similarity", "total_variation", "density", "variation_gap"},
        ),
    ],
)
def test_forerunners_lack_what_maskaq_added_and_nothing_else(module, method, terms):
    maskaq, other = (
        traverse_util.flatten_dict(
            config_lib.as_dict(
                config_lib.validated(module.get_config(f"method={name},preset=paper"))
            ),
            sep=".",
        )
        for name in ("maskaq", method)
    )
    assert {name for name in maskaq.keys() | other.keys() if maskaq[name] != other[name]} == {
        *("method", "samples.refresh_every", "finetuning.important_weight"),
        *(f"synthesis.weights.{term}" for term in terms),
    }


def test_source_is_another_word_for_method(module):
    assert module.get_config("source=noise") == module.get_config("method=noise")
    assert module.get_config("source=noise,method=noise") == module.get_config("method=noise")
    for argument in ("source=noise,method=psaq", "source=maskaq,method=noise"):
        with pytest.raises(config_lib.ConfigError, match="say the same thing in two ways"):
            module.get_config(argument)


def test_what_is_no_part_of_a_method_is_not_left_out(module):
    with pytest.raises(config_lib.ConfigError, match="a part of MaskAQ, but the method is 'noise'"):
        module.get_config("method=noise,without=entropy")


def test_the_compute_dtype_is_a_field(module):
    config = module.get_config()
    config.model.arguments.dtype = "bfloat16"
    assert config_lib.create_model(config_lib.validated(config)).dtype == "bfloat16"


def test_the_papers_preset_keeps_the_papers_losses(module):
    paper = config_lib.default()
    config = module.get_config("preset=paper")
    assert config.synthesis.weights == paper.synthesis.weights
    assert config.synthesis.view == paper.synthesis.view
    assert config.synthesis.learning_rate == paper.synthesis.learning_rate
    for field in ("optimizer", "learning_rate", "temperature", "attention_weight", "view"):
        assert config.finetuning[field] == paper.finetuning[field], field


ARGUMENTS = [
    *("w=3,a=8", "seed=4", "background=white", "source=noise", "preset=best,images=paper"),
    *("preset=best", "split=validation", *(f"without={part}" for part in config_lib.ABLATIONS)),
]


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_every_config_takes_every_argument(name, argument):
    config_lib.validated(_import(name).get_config(argument))


@pytest.mark.parametrize("name", sorted(NAMES - SCENES))
def test_images_of_ones_own_are_evaluated_by_any_classifier_s_config(name, tmp_path):
    get_config = _import(name).get_config
    folder = config_lib.validated(get_config(f"val={tmp_path}"))
    assert config_lib.evaluation_source(folder).name == f"folder {tmp_path}"
    for split, expected in (("", "validation"), (",split=test[:10]", "test[:10]")):
        tfds = config_lib.validated(get_config(f"val=tfds:imagenet2012{split}"))
        assert config_lib.evaluation_source(tfds).name == f"tfds:imagenet2012 {expected}"


def test_arguments_are_the_last_to_say():
    """After the preset and the config's own fields."""
    smoke = _import("smoke")
    for argument, (steps, epochs) in {
        "": (10, 1),
        "preset=paper": (10, 1),
        "without=synthesis": (1, 1),
        "without=refresh": (10, 0),
    }.items():
        config = smoke.get_config(argument)
        assert (config.synthesis.num_steps, config.samples.refresh_every) == (steps, epochs)
    assert smoke.get_config("without=refresh") == smoke.get_config("preset=best,without=refresh")
    backbone = _import("dinov2_s").get_config("preset=best,background=auto")
    with pytest.raises(config_lib.ConfigError, match=r"no classifier .* to choose a colour by"):
        config_lib.validated(backbone)


def test_the_order_of_arguments_does_not_matter():
    arguments = "method=maskaq,preset=best,images=paper,background=black,without=ratio,w=4,seed=1"
    parts = arguments.split(",")
    get_config = _import("vit_fashion").get_config
    assert get_config(arguments) == get_config(",".join(reversed(parts)))
