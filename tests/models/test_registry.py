"""Every model by its name: its size, what it says of itself, and the arguments it takes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from maskaq_jax import regions
from maskaq_jax.models import Model, Quantization, create_model, model_names
from maskaq_jax.models.registry import FAMILIES

# Published counts; the families stand for models of base size, those with a Swin of tiny. Those of
# DINOv2 have no classifier, nor the mask token that only their training used. Detectors and
# segmenters are counted at the size that positions are of, without auxiliary heads, their batch
# norms as biases.
PARAMETERS = {
    "vit": 86_567_656,
    "vit_tiny_patch16_224": 5_717_416,
    "vit_small_patch16_224": 22_050_664,
    "vit_base_patch16_224": 86_567_656,
    "deit_tiny_patch16_224": 5_717_416,
    "deit_small_patch16_224": 22_050_664,
    "deit_base_patch16_224": 86_567_656,
    "deit_distilled": 87_338_192,
    "deit_tiny_distilled_patch16_224": 5_910_800,
    "deit_small_distilled_patch16_224": 22_436_432,
    "deit_base_distilled_patch16_224": 87_338_192,
    "swin": 28_288_354,
    "swin_tiny_patch4_window7_224": 28_288_354,
    "swin_small_patch4_window7_224": 49_606_258,
    "swin_base_patch4_window7_224": 87_768_224,
    "vit_small_patch14_dinov2": 22_056_192,
    "vit_base_patch14_dinov2": 86_579_712,
    "vit_large_patch14_dinov2": 304_367_616,
    "vit_small_patch14_reg4_dinov2": 22_057_344,
    "vit_base_patch14_reg4_dinov2": 86_582_016,
    "vit_large_patch14_reg4_dinov2": 304_370_688,
    "vit_small_patch8_224": 21_670_272,
    "vit_base_patch8_224": 86_576_872,
    "vit_small_patch32_224": 22_878_952,
    "vit_base_patch32_224": 88_224_232,
    "vit_large_patch16_224": 304_326_632,
    "deit3_small_patch16_224": 22_059_496,
    "deit3_base_patch16_224": 86_585_320,
    "deit3_large_patch16_224": 304_374_760,
    "vit_base_patch16_clip_224": 86_568_424,
    "vit_base_patch32_clip_224": 88_225_000,
    "vit_large_patch14_clip_224": 304_204_776,
    "vit_base_patch16_clip_quickgelu_224": 86_193_152,
    "vit_base_patch32_clip_quickgelu_224": 87_849_728,
    "vit_large_patch14_clip_quickgelu_224": 303_966_976,
    "vit_base_patch16_siglip_224": 92_884_224,
    "yolos": 127_798_368,
    "yolos_tiny": 6_488_736,
    "yolos_small": 30_684_768,
    "yolos_base": 127_798_368,
    "upernet_swin": 59_011_920,
    "upernet_swin_tiny": 59_011_920,
    "upernet_swin_small": 80_329_824,
    "upernet_swin_base": 120_190_222,
    "vit_linear_seg": 86_695_062,
    "vit_small_patch14_dinov2_linear_seg": 22_113_942,
    "vit_base_patch14_dinov2_linear_seg": 86_695_062,
    "swin_fpn": 30_250_682,
    "swin_fpn_tiny": 30_250_682,
    "swin_fpn_small": 51_568_586,
    "swin_fpn_base": 89_597_880,
}
# Where it isn't classification, by what a name contains.
TASKS = {
    "yolos": "detection",
    "upernet": "segmentation",
    "linear_seg": "segmentation",
    "fpn": "features",
}


def _shapes(model):
    images = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def test_the_parameter_table_is_complete():
    assert sorted(PARAMETERS) == model_names()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name):
    shapes = _shapes(create_model(name))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_model_says_what_it_is(name):
    model = create_model(name, quantization=Quantization(4, 4))
    assert isinstance(model, Model)
    assert model.task == next((t for part, t in TASKS.items() if part in name), "classification")
    images = jax.ShapeDtypeStruct((2, *model.input_shape), jnp.float32)
    teacher = model.clone(quantization=None)
    (outputs, out), _ = jax.eval_shape(teacher.init_with_output, jax.random.key(0), images)
    assert _shapes_of(outputs) == _expected_shapes(model, out)
    patches = model.patches
    first, last = out["attention_logits"][0], out["attention_logits"][-1]
    images_of_first = first.shape[0] * patches.num_patches(first)
    assert model.values_per_image == images_of_first // 2 * out["block_outputs"][0].shape[-1]
    if patches.grids:
        assert len(patches.grids) == len(out["attention_logits"])
        assert model.patch_grid == (patches.grids[-1].rows, patches.grids[-1].columns)
    else:
        assert math.prod(model.patch_grid) == last.shape[0] // 2 * patches.num_patches(last)
    masks = jax.eval_shape(lambda logits: model.patch_regions(logits, 0.5), out["attention_logits"])
    scores = jax.eval_shape(model.patch_scores, out["attention_logits"])
    assert masks.shape == scores.shape == (2, math.prod(model.patch_grid))


def _shapes_of(outputs):
    return jax.tree.map(lambda leaf: leaf.shape, outputs)


def _expected_shapes(model, out):
    """Of the outputs for two images."""
    height, width, _ = model.input_shape
    if model.task == "detection":
        tokens = model.num_detection_tokens
        return {"logits": (2, tokens, model.num_classes + 1), "pred_boxes": (2, tokens, 4)}
    if model.task == "segmentation":
        return (2, height, width, model.num_classes)
    if model.task == "features":
        sides = [2 ** (i + 2) for i in range(len(model.depths) + 1)]
        return tuple(
            (2, math.ceil(height / side), math.ceil(width / side), model.out_channels)
            for side in sides
        )
    return (2, model.num_classes or out["features"].shape[-1])


def test_windows_are_known_by_what_the_model_says():
    assert create_model("swin").patches == regions.WINDOWS
    assert create_model("vit").patches == regions.PatchTokens(num_before=1)
    assert create_model("deit_distilled").patches == regions.PatchTokens(num_before=2)
    assert create_model("yolos").patches == regions.PatchTokens(
        num_before=1, num_behind=100, scored_by="tokens behind"
    )


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.module.__name__)
def test_every_argument_of_a_model_has_a_rule(family):
    fields = {field.name for field in dataclasses.fields(family.module)}
    assert set(family.arguments) == fields - {"parent", "name", "num_classes", "quantization"}
    for arguments in family.models.values():
        for name, value in arguments.items():
            family.arguments[name](name, value)


@pytest.mark.parametrize(
    ("name", "argument", "value", "message"),
    [
        ("vit", "img_size", 0, "img_size must be 1 to 65536, got 0"),
        ("vit", "depth", 1001, "depth must be 1 to 1000, got 1001"),
        ("vit", "depth", True, "depth must be an integer, got True"),
        ("vit", "num_heads", [2, 2], r"num_heads must be an integer, got \[2, 2\]"),
        ("vit", "mlp_ratio", None, "mlp_ratio must be a number, got None"),
        ("vit", "mlp_ratio", math.nan, "mlp_ratio must be finite, got nan"),
        ("vit", "init_values", "1", "init_values must be a number, got '1'"),
        ("vit", "distilled", 1, "distilled must be True or False, got 1"),
        ("vit", "dtype", "float16", "dtype must be 'float32' or 'bfloat16', got 'float16'"),
        ("swin", "depths", 2, "depths must be a list with a value for each stage, got 2"),
        ("swin", "depths", (2, 1001), "each of depths must be 1 to 1000, got 1001"),
        ("swin", "num_heads", (3, 0.5), "each of num_heads must be an integer, got 0.5"),
        ("swin", "window_size", -7, "window_size must be 1 to 65536, got -7"),
    ],
)
def test_values_that_an_argument_cannot_have_are_named(name, argument, value, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **{argument: value})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit_tny_patch16_224", {}, "did you mean 'vit_tiny_patch16_224'"),
        ("vit", {"embed_dims": 3}, "did you mean 'embed_dim'"),
        ("vit", {"img_size": 30}, "multiple of patch_size, got img_size=30"),
        ("vit", {"num_heads": 7}, "multiple of num_heads"),
        ("vit", {"class_token": False}, "leaves no token to pool: set global_pool to 'avg'"),
        ("deit_distilled", {"reg_tokens": 4}, "distilled models have no registers"),
        ("vit", {"global_pool": "max"}, "global_pool must be one of token, avg, map, got 'max'"),
        ("vit", {"act_layer": "elu"}, "act_layer must be one of gelu, gelu_tanh, quick_gelu"),
        ("vit", {"layer_norm_eps": 0}, "layer_norm_eps must be above 0 and below 1, got 0"),
        ("vit", {"reg_tokens": -1}, "reg_tokens must be 1 to 65536, got -1"),
        ("swin", {"global_pool": "avg"}, "unknown argument 'global_pool' of swin"),
        ("yolos", {"num_classes": 0}, "yolos tells classes apart: num_classes must be 1 or more"),
        ("upernet_swin", {"num_classes": 0}, "num_classes must be 1 or more"),
        ("swin_fpn", {"num_classes": 3}, "has no classes: num_classes must be 0, got 3"),
        ("yolos", {"img_size": (15, 64)}, "at least patch_size=16 in height and width"),
        ("yolos", {"img_size": (16, 32, 3)}, "img_size must be a side or a height and a width"),
        ("yolos", {"num_heads": 7}, "multiple of num_heads"),
        ("yolos", {"num_detection_tokens": 0}, "num_detection_tokens must be 1 to 65536, got 0"),
        ("yolos_tiny", {"hidden_size": 3}, "unknown argument 'hidden_size' of yolos_tiny"),
        ("upernet_swin", {"num_heads": (3, 5, 12, 24)}, "stage 1 has 192 channels, which its 5"),
        ("upernet_swin", {"depths": (2,)}, "a value for each stage"),
        (
            "vit_linear_seg",
            {"img_size": 512},
            "multiple of patch_size, got img_size=512 and patch_",
        ),
        ("vit_linear_seg", {"img_size": (518, 518)}, "img_size must be an integer"),
    ],
)
def test_impossible_models_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **arguments)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_bytes_are_refused_with_the_way_to_floats(name):
    model = create_model(name)
    images = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.uint8)
    with pytest.raises(ValueError, match=r"got uint8: `Pixels\(mean, std\).from_bytes\(images\)`"):
        jax.eval_shape(model.init, jax.random.key(0), images)
