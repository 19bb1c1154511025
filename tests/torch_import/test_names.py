import numpy as np
import pytest

from maskaq_jax.torch_import.names import to_timm

VIT = {
    "vit.embeddings.cls_token": "cls_token",
    "vit.embeddings.position_embeddings": "pos_embed",
    "vit.embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "vit.encoder.layer.3.layernorm_before.bias": "blocks.3.norm1.bias",
    "vit.encoder.layer.3.attention.output.dense.weight": "blocks.3.attn.proj.weight",
    "vit.encoder.layer.3.layernorm_after.weight": "blocks.3.norm2.weight",
    "vit.encoder.layer.3.intermediate.dense.weight": "blocks.3.mlp.fc1.weight",
    "vit.encoder.layer.3.output.dense.bias": "blocks.3.mlp.fc2.bias",
    "vit.layernorm.weight": "norm.weight",
    "classifier.bias": "head.bias",
}
DEIT = {
    "deit.embeddings.distillation_token": "dist_token",
    "deit.embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "cls_classifier.weight": "head.weight",
    "distillation_classifier.weight": "head_dist.weight",
}
DINOV2 = {
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "encoder.layer.0.norm1.weight": "blocks.0.norm1.weight",
    "encoder.layer.0.layer_scale1.lambda1": "blocks.0.ls1.gamma",
    "encoder.layer.0.mlp.fc1.weight": "blocks.0.mlp.fc1.weight",
    "encoder.layer.0.layer_scale2.lambda1": "blocks.0.ls2.gamma",
    "layernorm.bias": "norm.bias",
}
SWIN = {
    "swin.embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "swin.embeddings.norm.weight": "patch_embed.norm.weight",
    "swin.encoder.layers.1.blocks.0.attention.self.relative_position_bias_table": (
        "layers.1.blocks.0.attn.relative_position_bias_table"
    ),
    "swin.encoder.layers.1.blocks.0.attention.output.dense.bias": (
        "layers.1.blocks.0.attn.proj.bias"
    ),
    "swin.encoder.layers.0.downsample.reduction.weight": "layers.1.downsample.reduction.weight",
    "classifier.weight": "head.fc.weight",
}
ORIGINAL_SWIN = {
    "patch_embed.proj.weight": "patch_embed.proj.weight",
    "layers.0.blocks.1.attn.relative_position_bias_table": (
        "layers.0.blocks.1.attn.relative_position_bias_table"
    ),
    "layers.0.downsample.reduction.weight": "layers.1.downsample.reduction.weight",
    "layers.0.downsample.norm.bias": "layers.1.downsample.norm.bias",
    "head.weight": "head.fc.weight",
}
TIMM_SWIN = {
    "layers.0.blocks.1.attn.relative_position_bias_table": (
        "layers.0.blocks.1.attn.relative_position_bias_table"
    ),
    "layers.1.downsample.reduction.weight": "layers.1.downsample.reduction.weight",
    "layers.2.downsample.reduction.weight": "layers.2.downsample.reduction.weight",
    "head.fc.bias": "head.fc.bias",
}
TIMM_VIT = {"cls_token": "cls_token", "head.weight": "head.weight", "norm.bias": "norm.bias"}

PROJECTS = [VIT, DEIT, DINOV2, SWIN, ORIGINAL_SWIN, TIMM_SWIN, TIMM_VIT]


@pytest.mark.parametrize(
    "names", PROJECTS, ids=["vit", "deit", "dinov2", "swin", "original", "timm_swin", "timm_vit"]
)
def test_names_become_timms(names):
    state = {name: np.full(2, number) for number, name in enumerate(names)}
    renamed = to_timm(state)
    assert renamed.keys() == set(names.values())
    for theirs, ours in names.items():
        assert renamed[ours] is state[theirs]


@pytest.mark.parametrize(
    ("query", "joined"),
    [
        ("vit.encoder.layer.2.attention.attention.query.{}", "blocks.2.attn.qkv.{}"),
        ("vit.layers.2.attention.q_proj.{}", "blocks.2.attn.qkv.{}"),
        ("swin.encoder.layers.1.blocks.2.attention.self.query.{}", "layers.1.blocks.2.attn.qkv.{}"),
    ],
)
@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_query_key_and_value_are_joined_in_that_order(query, joined, leaf):
    shape = (2, 3) if leaf == "weight" else (2,)
    state = {"vit.embeddings.patch_embeddings.projection.bias": np.zeros(1)}
    for number, name in enumerate(("key", "value", "query")):
        theirs = query.replace("query", name).replace("q_proj", f"{name[0]}_proj").format(leaf)
        state[theirs] = np.full(shape, number)
    renamed = to_timm(state)
    parts = np.split(renamed[joined.format(leaf)], 3)
    assert [part.mean() for part in parts] == [2, 0, 1]
    assert parts[0].shape == shape


def test_buffers_are_left_out():
    state = {
        "layers.0.blocks.1.attn_mask": np.zeros(1),
        "layers.0.blocks.1.attn.relative_position_index": np.zeros(1),
        "vit.pooler.dense.weight": np.zeros(1),
        "embeddings.mask_token": np.zeros(1),
        "norm.weight": np.zeros(1),
    }
    assert set(to_timm(state)) == {"norm.weight"}
