"""Classifiers on other features than ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import torch_import
from maskaq_jax.models import create_model
from tests.tiny import constant_weights
from tests.torch_import.conftest import MODEL, TINY

TOWER = {"class_token": False, "global_pool": "avg", "fc_norm": False}


def _under_siglips_names(state):
    """A ViT's state as a tower of transformers has it, a classifier beside it."""
    renamed = {}
    for name, array in state.items():
        if name.startswith("head."):
            renamed[name.replace("head.", "classifier.")] = array
            continue
        if ".qkv." in name:
            for part, piece in zip("qkv", np.split(array, 3), strict=True):
                own = name.replace("attn.qkv", f"self_attn.{part}_proj")
                renamed[own.replace("blocks.", "vision_model.encoder.layers.")] = piece
            continue
        for theirs, ours in (
            ("embeddings.patch_embedding.", "patch_embed.proj."),
            ("post_layernorm.", "norm."),
            ("self_attn.out_proj.", "attn.proj."),
            ("layer_norm1.", "norm1."),
            ("layer_norm2.", "norm2."),
            ("encoder.layers.", "blocks."),
        ):
            name = name.replace(ours, theirs) if ours != "norm." or name[:5] == "norm." else name
        if name == "pos_embed":
            name, array = "embeddings.position_embedding.weight", array[0]
        elif name == "cls_token":
            name, array = "embeddings.class_embedding", array.reshape(-1)
        renamed[f"vision_model.{name}"] = array
    return renamed


def test_a_classifier_of_siglip_is_one_of_mean_patches_and_its_pooling_is_left_out():
    model = create_model("vit", 3, **TINY, **TOWER)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    theirs = _under_siglips_names(torch_import.to_torch_state(params))
    theirs["vision_model.head.probe"] = np.zeros((1, 1, 8), np.float32)
    told = []
    found = torch_import.from_torch_state(theirs, model, tell=told.append)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    assert any("its classifier doesn't read it: vision_model.head.probe" in line for line in told)
    by_map = create_model("vit", 3, class_token=False, global_pool="map", **TINY)
    with pytest.raises(ValueError, match=r"SiglipForImageClassification.*global_pool='avg' and"):
        torch_import.from_torch_state(theirs, by_map)


def test_a_classifier_of_clip_is_refused_and_its_tower_is_read():
    theirs = _under_siglips_names(constant_weights(MODEL, 1.0))
    with pytest.raises(ValueError, match=r"CLIPForImageClassification.*num_classes=0"):
        torch_import.from_torch_state(theirs, MODEL)
    torch_import.from_torch_state(theirs, create_model("vit", 0, **TINY))


def test_one_classifier_of_two_tokens_is_refused():
    state = constant_weights(create_model("deit_distilled", 3, **TINY))
    one = {name: state[name] for name in state if not name.startswith("head_dist.")}
    with pytest.raises(ValueError, match=r"DeiTForImageClassification, .*WithTeacher"):
        torch_import.from_torch_state(one, create_model("deit_distilled", 3, **TINY))


@pytest.mark.parametrize("name", ["head.weight", "linear_head.weight"])
def test_a_classifier_of_several_vectors_is_refused(name):
    state = constant_weights(MODEL) | {name: np.zeros((3, 16), np.float32)}
    with pytest.raises(ValueError, match=r"reads 16 features.*DINOv2's.*num_classes=0"):
        torch_import.from_torch_state(state, MODEL)
    headless = {key: state[key] for key in state if not key.startswith("head.")} | {
        name: state[name]
    }
    torch_import.from_torch_state(headless, create_model("vit", 0, **TINY))
