import numpy as np
import pytest

from maskaq_jax import torch_architecture
from maskaq_jax.models import create_model, model_names
from tests.tiny import constant_weights


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
    found = torch_architecture.of_state(constant_weights(model))
    assert found == torch_architecture.of_model(model)
    assert torch_architecture.describe(found) == description


def test_every_named_model_is_described_by_its_name():
    for name in model_names():
        if "_patch" in name:
            assert name in torch_architecture.describe(
                torch_architecture.of_model(create_model(name))
            )


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
    assert torch_architecture.of_state(state) is None
