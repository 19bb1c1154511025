"""What lies beside weights and says what their shapes don't."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from maskaq_jax import torch_import
from maskaq_jax.models import create_model
from tests.tiny import constant_weights
from tests.torch_import.conftest import MODEL, TINY


@pytest.fixture
def load(tmp_path):
    """Imports weights beside which lies a `config.json`; gives what was told."""

    def load(config, model=MODEL):
        save_file(constant_weights(model, 1.0), tmp_path / "model.safetensors")
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "config.json").write_text(text)
        told = []
        torch_import.load_torch_weights(tmp_path / "model.safetensors", model, tell=told.append)
        return told

    return load


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_act": "relu"}, "act_layer='relu'"),
        ({"hidden_act": "quick_gelu"}, "act_layer='quick_gelu'"),
        ({"hidden_act": "gelu_pytorch_tanh"}, "act_layer='gelu_tanh'"),
        ({"hidden_act": "swish"}, "act_layer='silu'"),
        ({"num_attention_heads": 4}, "num_attention_heads is 4 there, the model has num_heads=2"),
        ({"layer_norm_eps": 0.1}, "layer_norm_eps=0.1"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05"),
        ({"qkv_bias": False}, "qkv_bias=False"),
        ({"model_type": "clip", "vision_config": {"hidden_act": "quick_gelu"}}, "quick_gelu"),
        ({"model_type": "swinv2"}, "of a 'swinv2', which is another mechanism"),
        ({"model_type": "dinov2", "use_swiglu_ffn": True}, "SwiGLU are another mechanism"),
        ({"architecture": "vit_small_patch8_224.dino"}, "num_heads=6"),
        ({"architecture": "vit_base_patch32_clip_quickgelu_224.openai"}, "act_layer='quick_gelu'"),
        ({"architecture": "other", "global_pool": "avg"}, "global_pool='avg'"),
        ({"architecture": "other", "model_args": {"act_layer": "relu"}}, "act_layer='relu'"),
        ({"architecture": "x", "global_pool": "max"}, "don't have, of token, avg, map"),
        ({"hidden_act": "selu"}, "which the models here don't have, of gelu, "),
        (
            {"architecture": "vit_small_patch8_224"},
            "num_heads of the architecture 'vit_small_patch",
        ),
        ({"architecture": "vit_base_patch16_rpn_224.sw"}, "'vit_base_patch16_rpn_224', which"),
        ({"architecture": "vit_pe_core_base_patch16_224"}, "computes otherwise than the models"),
        ({"architecture": "vit_base_patch16_rope_ape_224"}, "computes otherwise than the models"),
        (
            {"model_type": "clip", "vision_config": {"model_type": "clip_vision_model"}},
            "quick_gelu",
        ),
    ],
)
def test_a_difference_to_the_model_is_named_with_its_field(load, config, message):
    with pytest.raises(ValueError, match=r"config\.json") as refusal:
        load(config)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_act": "gelu", "num_attention_heads": 2, "layer_norm_eps": 1e-6},
        {"model_type": "vit", "layer_norm_eps": 1e-12, "qkv_bias": True},
        {"architecture": "other", "global_pool": "token"},
        {"seed": 0, "model": {"name": "vit"}},
        [1, 2],
        {"num_attention_heads": "two", "hidden_act": 3, "layer_norm_eps": None},
    ],
)
def test_what_agrees_or_says_nothing_is_accepted(load, config):
    load(config)


def test_an_architecture_that_is_none_here_is_told(load):
    lines = load({"architecture": "vit_giant_patch99_224.x"})
    assert any("architecture 'vit_giant_patch99_224', which is none of" in line for line in lines)


def test_what_open_clip_says_of_a_tower_is_compared(tmp_path):
    save_file(constant_weights(MODEL, 1.0), tmp_path / "model.safetensors")
    tower = {"width": 8, "head_width": 2}
    said = {"model_cfg": {"quick_gelu": True, "vision_cfg": tower}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"open_clip_config\.json") as refusal:
        torch_import.load_torch_weights(tmp_path, MODEL)
    for part in ("act_layer='quick_gelu'", "num_heads=4"):
        assert part in str(refusal.value)


def test_a_file_that_cannot_be_read_is_told(load):
    assert any("config.json is not readable" in line for line in load("{"))


def test_what_is_said_is_not_called_an_assumption(load):
    (line,) = load({"num_attention_heads": 2, "hidden_act": "gelu"})
    assert "global_pool='token'" in line
    assert "num_heads" not in line
    assert "act_layer" not in line


def test_a_swin_has_the_activation_that_it_has(load):
    swin = create_model(
        "swin", 3, img_size=8, patch_size=2, embed_dim=4, depths=(1,), num_heads=(2,), window_size=4
    )
    load({"hidden_act": "gelu", "layer_norm_eps": 1e-5, "num_heads": [2]}, swin)
    with pytest.raises(ValueError, match=r"hidden_act is 'relu' there.*this model can't have"):
        load({"hidden_act": "relu"}, swin)
    with pytest.raises(ValueError, match=r"num_heads is \[4\] there"):
        load({"num_heads": [4]}, swin)


HALVES = {"mean": (0.5,) * 3, "std": (0.1,) * 3}
SQUASHED = {"resize": "squash", "crop_ratio": 1.0, "interpolation": "bilinear"}


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (
            {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
            {"mean": (0.5,) * 3, "std": (0.5,) * 3},
        ),
        ({"do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"size": {"height": 224, "width": 224}, "resample": 2}, SQUASHED),
        ({"size": 224, "resample": 2}, SQUASHED),
        (
            {"size": 256, "do_center_crop": True, "crop_size": 224, "resample": 3},
            {"resize": "squash", "crop_ratio": 0.875, "interpolation": "bicubic"},
        ),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True}
            | {"crop_size": {"height": 224, "width": 224}},
            {"resize": "shorter", "crop_ratio": 0.875},
        ),
        (
            {"size": 224, "feature_extractor_type": "CLIPFeatureExtractor", "crop_size": 224}
            | {"do_center_crop": True},
            {"resize": "shorter", "crop_ratio": 1.0},
        ),
        (
            {"size": {"shortest_edge": 512, "longest_edge": 864}}
            | {"image_processor_type": "YolosImageProcessor"},
            {"resize": "fit", "shortest_edge": 512, "multiple": 16, "crop_ratio": 1.0},
        ),
        (
            {"size": 800, "max_size": 1333, "feature_extractor_type": "DetrFeatureExtractor"},
            {"resize": "fit", "shortest_edge": 800, "crop_ratio": 1.0},
        ),
        ({"do_resize": False, "size": 224}, {}),
        ({"size": "large", "resample": 77, "image_mean": "none"}, {}),
        ({"size": [224, 224], "resample": "bilinear"}, SQUASHED),
        ({"size": [224, 448], "resample": [3]}, {}),
        ({"image_mean": [0.5], "image_std": 0.1}, HALVES),
    ],
)
def test_what_a_processor_does_is_read_in_our_words(tmp_path, processor, expected):
    save_file({"a": np.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    said = torch_import.read_companions(tmp_path / "model.safetensors")
    assert said.pictures == expected


def test_what_timm_says_of_pictures_is_read(tmp_path):
    save_file({"a": np.zeros(1)}, tmp_path / "model.safetensors")
    pretrained = {"mean": [0.5] * 3, "crop_pct": 0.95, "interpolation": "bicubic"}
    config = {"architecture": "x", "pretrained_cfg": pretrained | {"crop_mode": "squash"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = torch_import.read_companions(tmp_path)
    assert said.pictures == {
        "mean": (0.5,) * 3,
        "crop_ratio": 0.95,
        "interpolation": "bicubic",
        "resize": "squash",
    }


def test_resampled_positions_are_said(tmp_path):
    large = create_model("vit", 3, **(TINY | {"img_size": 16}))
    params = jax.jit(large.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    told = []
    torch_import.from_torch_state(torch_import.to_torch_state(params), MODEL, tell=told.append)
    (line,) = told
    assert "of 4 x 4 patches are resampled to 2 x 2, by timm's rule" in line


@pytest.mark.parametrize(
    ("file", "said", "uncompared"),
    [
        ("preprocessor_config.json", {"do_resize": False}, ["do_resize=False"]),
        ("preprocessor_config.json", {"resample": 4, "size": 9}, ["resample=4"]),
        ("preprocessor_config.json", {"size": [8, 9]}, ["size=[8, 9]"]),
        ("preprocessor_config.json", {"size": 8, "resample": 3}, []),
        ("config.json", {"architecture": "x", "crop_mode": "border"}, ["crop_mode='border'"]),
        (
            "open_clip_config.json",
            {"preprocess_cfg": {"resize_mode": "longest", "interpolation": "bicubic"}},
            ["crop_mode='longest'"],
        ),
        (
            "config.json",
            {"architecture": "x", "pretrained_cfg": {"interpolation": "random"}},
            ["interpolation='random'"],
        ),
    ],
)
def test_what_has_no_counterpart_is_listed(tmp_path, file, said, uncompared):
    save_file({"a": np.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / file).write_text(json.dumps(said))
    assert list(torch_import.read_companions(tmp_path).uncompared) == uncompared


def test_a_file_with_a_byte_order_mark_is_read(load):
    with pytest.raises(ValueError, match="act_layer='relu'"):
        load("\ufeff" + json.dumps({"hidden_act": "relu"}))


def test_scales_that_are_no_list_are_named(load):
    with pytest.raises(ValueError, match="says pool_scales=3, and the models here pool at"):
        load({"model_type": "upernet", "pool_scales": 3})


@pytest.mark.parametrize(
    "config",
    [
        {"image_size": [4, 16]},
        {"architecture": "x", "pretrained_cfg": {"input_size": [3, 4, 16]}},
        {"architecture": "x", "input_size": [3, 4, 16]},
    ],
)
def test_positions_of_other_rows_and_columns_are_refused(load, config):
    told = r"of 1 x 4 patches where images are 4 x 16.* have square images, of 2 x 2 patches"
    with pytest.raises(ValueError, match=told):
        load(config)


@pytest.mark.parametrize(
    "size", [8, [8, 8], {"height": 8, "width": 8}, [[8, 8], [8, 8]], {"height": "8"}, True, [4, 8]]
)
def test_sizes_that_fit_or_are_none_are_accepted(load, size):
    load({"image_size": size})
