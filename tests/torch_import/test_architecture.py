import numpy as np
import pytest

from maskaq_jax import torch_import
from maskaq_jax.models import create_model, model_names
from maskaq_jax.torch_import import architecture
from tests.tiny import constant_weights

TINY = {"img_size": 16, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2}


@pytest.mark.parametrize(
    ("name", "arguments", "description"),
    [
        (
            "deit_tiny_patch16_224",
            {},
            "deit_tiny_patch16_224 or vit_tiny_patch16_224 with num_classes=1000",
        ),
        (
            "deit_small_distilled_patch16_224",
            {"num_classes": 7},
            "deit_small_distilled_patch16_224 with num_classes=7",
        ),
        (
            "vit_small_patch14_dinov2",
            {"num_classes": 0, "img_size": 28},
            "vit_small_patch14_dinov2 with num_classes=0",
        ),
        (
            "swin_small_patch4_window7_224",
            {"num_classes": 10},
            "swin_small_patch4_window7_224 with num_classes=10",
        ),
        (
            "vit",
            {"num_classes": 10, "patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 2},
            "vit with embed_dim=24, patch_size=8, in_chans=3, num_classes=10, depth=3",
        ),
        (
            "swin",
            {"depths": (1, 2), "embed_dim": 8, "num_heads": (1, 2), "window_size": 4}
            | {"img_size": 32},
            "swin with embed_dim=8, depths=(1, 2), patch_size=4, in_chans=3, num_classes=1000, "
            "window_size=4",
        ),
    ],
)
def test_weights_tell_their_architecture(name, arguments, description):
    model = create_model(name, **arguments)
    found = architecture.of_state(constant_weights(model))
    assert found == architecture.of_model(model)
    assert architecture.describe(found) == description


def test_every_named_model_is_described_by_its_name():
    for name in model_names():
        if "_patch" in name:
            assert name in architecture.describe(architecture.of_model(create_model(name)))


VARIANTS = [
    ("vit_small_patch8_224", {"num_classes": 0}, "vit_small_patch8_224 with num_classes=0"),
    ("vit_base_patch16_siglip_224", {}, "vit_base_patch16_siglip_224 with num_classes=0"),
    ("deit3_small_patch16_224", {}, "deit3_small_patch16_224 with num_classes=1000"),
    (
        "vit_small_patch14_reg4_dinov2",
        {"img_size": 28},
        "vit_small_patch14_reg4_dinov2 with num_classes=0",
    ),
    (
        "vit_base_patch32_clip_224",
        {"num_classes": 3},
        "vit_base_patch32_clip_224 or vit_base_patch32_clip_quickgelu_224 with num_classes=3",
    ),
    ("vit", TINY | {"init_values": 0.1}, "vit with embed_dim=24, {}, init_values=1.0, depth=1"),
    ("vit", TINY | {"global_pool": "avg"}, "{}, global_pool=avg"),
    ("vit", TINY | {"global_pool": "avg", "fc_norm": False, "class_token": False}, "fc_norm=False"),
    ("vit", TINY | {"qk_norm": True, "qkv_bias": False}, "qkv_bias=False, qk_norm=True"),
    ("vit", TINY | {"mlp_ratio": 2.0, "reg_tokens": 3}, "mlp_ratio=2.0, reg_tokens=3"),
    ("vit", TINY | {"no_embed_class": True}, "no_embed_class=True"),
]


@pytest.mark.parametrize(("name", "arguments", "part"), VARIANTS)
def test_what_names_and_shapes_show_is_told(name, arguments, part):
    model = create_model(name, **arguments)
    found = architecture.of_state(constant_weights(model))
    assert found == architecture.of_model(model)
    for piece in part.split("{}"):
        assert piece.strip(", ") in architecture.describe(found)


def test_a_name_brings_the_heads_that_weights_do_not_show():
    """DINO's ViT-S/8, into a model of its shapes with the family's twelve heads."""
    dino = constant_weights(create_model("vit_small_patch8_224"))
    with pytest.raises(ValueError, match="does not fit") as refusal:
        torch_import.from_torch_state(dino, create_model("vit", 0))
    assert "The weights look like vit_small_patch8_224 with" in str(refusal.value)
    assert create_model("vit_small_patch8_224").num_heads == 6


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"conv1.weight": np.zeros((64, 3, 7, 7))},
        {"patch_embed.proj.weight": np.ones(3)},
        {"patch_embed.proj.weight": np.ones((8, 0, 4, 4)), "blocks.0.x": np.ones(1)},
        {"patch_embed.proj.weight": np.ones((8, 3, 4, 4)), "head.weight": np.array(0.0)},
        {
            "patch_embed.proj.weight": np.ones((8, 3, 4, 4)),
            "layers.0.blocks.0.attn.relative_position_bias_table": np.array(0.0),
        },
    ],
)
def test_other_weights_are_of_no_architecture(state):
    assert architecture.of_state(state) is None
