"""Files of detectors, segmenters and backbones with a pyramid, and what they are refused for."""

import functools
import json
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from maskaq_jax import torch_import
from maskaq_jax.models import create_model
from maskaq_jax.torch_import import companions, positions
from tests.tiny import constant_weights

NAMES = ("yolos", "upernet_swin", "linear_seg", "swin_fpn")


def model_of(arrays, **changes):
    arguments = arrays.arguments | changes
    return create_model(arguments.pop("arch"), **arguments)


@pytest.fixture(scope="module")
def imported(golden):
    """By its name, a model, its parameters from a golden file, and that file."""

    @functools.cache
    def load(name):
        arrays = golden(name)
        model = model_of(arrays)
        return model, torch_import.load_torch_weights(arrays.weights, model), arrays

    return load


@pytest.mark.parametrize("name", NAMES)
def test_export_and_import_are_inverse(imported, name):
    """A wrapper's prefix, which is told, changes nothing."""
    model, params, _ = imported(name)
    state = torch_import.to_torch_state(params)
    wrapped = {f"module.{name}": array for name, array in state.items()}
    told = []
    again = torch_import.from_torch_state(wrapped, model, tell=told.append)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    assert any("prefix 'module." in line for line in told)


def test_mmdetection_s_names_come_back(imported):
    _, params, arrays = imported("swin_fpn")
    state, stored = torch_import.to_mmdetection_state(params), load_file(arrays.weights)
    assert state.keys() == stored.keys()
    for name, array in stored.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)


def test_mmdetection_s_names_are_of_a_pyramid_alone(golden):
    arrays = golden("vit")
    params = torch_import.load_torch_weights(arrays.weights, model_of(arrays))
    with pytest.raises(ValueError, match="these have no neck"):
        torch_import.to_mmdetection_state(params)


def test_heads_of_mask_rcnn_are_left_out_and_said(imported):
    model, expected, arrays = imported("swin_fpn")
    told = []
    others = {
        "rpn_head.rpn_conv.weight": np.zeros(1),
        "roi_head.bbox_head.fc_cls.bias": np.zeros(1),
    }
    params = torch_import.from_torch_state(
        load_file(arrays.weights) | others, model, "mask_rcnn.pth", told.append
    )
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert told == [
        "mask_rcnn.pth: left out is rpn_head and roi_head, which reads the features that the model "
        "gives"
    ]


def of_mmsegmentation(state):
    """Weights of UperNet as mmsegmentation names them, from those of transformers."""
    renamed = {}
    for name, array in state.items():
        for pattern, replacement in (
            (r"\.batch_norm\.", ".bn."),
            (r"_head\.classifier\.", "_head.conv_seg."),
            (r"\.embeddings\.patch_embeddings\.", ".patch_embed."),
            (r"\.embeddings\.norm\.", ".patch_embed.norm."),
            (r"\.encoder\.layers\.", ".stages."),
            (r"\.attention\.self\.", ".attn.w_msa."),
            (r"\.attention\.output\.dense\.", ".attn.w_msa.proj."),
            (r"\.layernorm_before\.", ".norm1."),
            (r"\.layernorm_after\.", ".norm2."),
            (r"\.intermediate\.dense\.", ".ffn.layers.0.0."),
            (r"\.output\.dense\.", ".ffn.layers.1."),
            (r"\.hidden_states_norms\.stage1\.", ".norm0."),
            (r"\.hidden_states_norms\.stage2\.", ".norm1."),
            (r"\.hidden_states_norms\.stage3\.", ".norm2."),
        ):
            name = re.sub(pattern, replacement, name)
        renamed[name] = array
    for name in [name for name in renamed if "w_msa.query." in name]:
        parts = [renamed.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        renamed[name.replace("query", "qkv")] = np.concatenate(parts)
    for name in [name for name in renamed if ".downsample." in name]:
        # Channels apart, then four neighbours, row by row.
        by_neighbour = renamed[name].reshape(*renamed[name].shape[:-1], 2, 2, -1)
        renamed[name] = np.einsum("...yxc->...cxy", by_neighbour).reshape(renamed[name].shape)
    renamed.pop("backbone.swin.layernorm.weight")
    renamed.pop("backbone.swin.layernorm.bias")
    return renamed


def test_mmsegmentation_s_names_give_the_same(imported):
    model, expected, arrays = imported("upernet_swin")
    told = []
    state = of_mmsegmentation(load_file(arrays.weights))
    assert "backbone.stages.1.blocks.1.attn.w_msa.qkv.weight" in state
    params = torch_import.from_torch_state(state, model, "upernet.pth", told.append)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert told == [
        "upernet.pth: left out is auxiliary_head, which training alone uses",
        "upernet.pth: 10 batch norms are made part of the convolutions beside them",
    ]


def test_the_original_swin_s_names_of_the_backbone_give_the_same(imported):
    """Whose merging of patches is timm's."""
    model, expected, _ = imported("upernet_swin")
    state = {}
    for name, array in torch_import.to_torch_state(expected).items():
        if not name.startswith("decode_head."):
            name = re.sub(
                r"^layers\.(\d+)\.downsample",
                lambda match: f"layers.{int(match[1]) - 1}.downsample",
                name,
            )
            name = "backbone." + re.sub(r"^norm\.", "norm", name)
        state[name] = array
    jax.tree.map(
        np.testing.assert_array_equal, torch_import.from_torch_state(state, model), expected
    )


def of_hustvl(state):
    """YOLOS as its authors name it, from the names of transformers."""
    renamed = {}
    for name, array in state.items():
        for pattern, replacement in (
            (r"^vit\.embeddings\.cls_token", "backbone.cls_token"),
            (r"^vit\.embeddings\.detection_tokens", "backbone.det_token"),
            (r"^vit\.embeddings\.position_embeddings", "backbone.pos_embed"),
            (r"^vit\.encoder\.mid_position_embeddings", "backbone.mid_pos_embed"),
            (r"^vit\.embeddings\.patch_embeddings\.projection", "backbone.patch_embed.proj"),
            (r"^vit\.encoder\.layer\.", "backbone.blocks."),
            (r"\.attention\.output\.dense\.", ".attn.proj."),
            (r"\.layernorm_before\.", ".norm1."),
            (r"\.layernorm_after\.", ".norm2."),
            (r"\.intermediate\.dense\.", ".mlp.fc1."),
            (r"\.output\.dense\.", ".mlp.fc2."),
            (r"^vit\.layernorm\.", "backbone.norm."),
            (r"^class_labels_classifier\.", "class_embed."),
            (r"^bbox_predictor\.", "bbox_embed."),
        ):
            name = re.sub(pattern, replacement, name)
        renamed[name] = array
    for name in [name for name in renamed if "attention.attention.query." in name]:
        parts = [renamed.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        renamed[name.replace("attention.attention.query", "attn.qkv")] = np.concatenate(parts)
    return renamed


def test_hustvl_s_names_give_the_same(imported):
    model, expected, arrays = imported("yolos")
    state = of_hustvl(load_file(arrays.weights))
    assert "backbone.blocks.1.attn.qkv.weight" in state
    told = []
    params = torch_import.from_torch_state(state, model, "yolos.pth", told.append)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert told == []


def test_a_head_in_a_file_of_its_own_is_found_beside_the_backbone(imported, tmp_path):
    model, expected, arrays = imported("linear_seg")
    state = load_file(arrays.weights)
    is_head = {name: name.startswith("decode_head.") for name in state}
    backbone = {name: state[name] for name in state if not is_head[name]}
    head = {name: state[name] for name in state if is_head[name]}
    save_file(backbone, tmp_path / "backbone.safetensors")
    with pytest.raises(ValueError, match="one should lie beside it, and there is none"):
        torch_import.load_torch_weights(tmp_path / "backbone.safetensors", model)

    save_file(head, tmp_path / "linear_head.safetensors")
    for path in (tmp_path, tmp_path / "backbone.safetensors"):
        told = []
        params = torch_import.load_torch_weights(path, model, tell=told.append)
        jax.tree.map(np.testing.assert_array_equal, params, expected)
        assert any("head is that of linear_head.safetensors" in line for line in told)

    save_file(head, tmp_path / "other_head.safetensors")
    with pytest.raises(ValueError, match="there is several, linear_head"):
        torch_import.load_torch_weights(tmp_path / "backbone.safetensors", model)


# What a file is of, and what it is loaded into.
SWAPS = [
    ("yolos", "upernet_swin", "a detector of YOLOS's kind, and the model is a segmenter"),
    ("upernet_swin", "yolos", "a segmenter, and the model is a detector of YOLOS's kind"),
    ("yolos", "linear_seg", "a detector of YOLOS's kind, and the model is a segmenter"),
    ("swin_fpn", "upernet_swin", "a backbone with a feature pyramid, and the model is a segmenter"),
    ("upernet_swin", "swin", "a segmenter, and the model is a classifier"),
    ("swin", "upernet_swin", "a classifier, and the model is a segmenter"),
    ("vit", "yolos", "a classifier, and the model is a detector of YOLOS's kind"),
    ("upernet_swin", "linear_seg", "unexpected"),
]


@pytest.mark.parametrize(("stored", "wanted", "message"), SWAPS)
def test_weights_of_another_task_are_told_apart(golden, stored, wanted, message):
    model = model_of(golden(wanted))
    with pytest.raises(ValueError, match="does not fit the model") as refusal:
        torch_import.load_torch_weights(golden(stored).weights, model)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    family = golden(stored).arguments["arch"]
    assert f"The weights look like {family} with" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("yolos", "class_embed.layers.2"),
        ("upernet_swin", "conv_seg"),
        ("linear_seg", "decode_head"),
    ],
)
def test_another_number_of_classes_is_named(golden, name, layer):
    arrays = golden(name)
    with pytest.raises(ValueError, match="2 of another shape") as refusal:
        torch_import.load_torch_weights(arrays.weights, model_of(arrays, num_classes=7))
    assert layer in str(refusal.value)
    assert "num_classes=3" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("yolos", {"num_detection_tokens": 9}, "num_detection_tokens=5"),
        ("yolos", {"mid_position_embeddings": False}, "mid_position_embeddings=True"),
        ("upernet_swin", {"hidden_size": 8}, "hidden_size=12"),
        ("upernet_swin", {"window_size": 3}, "window_size=4"),
        ("swin_fpn", {"out_channels": 8}, "out_channels=12"),
        ("linear_seg", {"depth": 1}, "depth=2"),
    ],
)
def test_another_size_is_named(golden, name, change, message):
    arrays = golden(name)
    with pytest.raises(ValueError, match="does not fit the model") as refusal:
        torch_import.load_torch_weights(arrays.weights, model_of(arrays, **change))
    assert message in str(refusal.value)


def test_weights_of_a_named_model_are_called_by_its_name():
    state = constant_weights(create_model("yolos_tiny", img_size=64))
    with pytest.raises(ValueError, match="The weights look like yolos_tiny with num_classes=91"):
        torch_import.from_torch_state(state, create_model("deit_tiny_patch16_224"))


def test_a_batch_norm_without_its_convolution_is_named(golden):
    arrays = golden("upernet_swin")
    state = load_file(arrays.weights)
    del state["decode_head.bottleneck.conv.weight"]
    with pytest.raises(ValueError, match=r"batch norm decode_head\.bottleneck.* has no conv"):
        torch_import.from_torch_state(state, model_of(arrays))
    state = load_file(arrays.weights)
    del state["decode_head.bottleneck.batch_norm.bias"]
    with pytest.raises(ValueError, match=r"missing: decode_head\.bottleneck\.batch_norm\.bias"):
        torch_import.from_torch_state(state, model_of(arrays))


def test_arrays_of_other_shapes_are_named(golden):
    arrays = golden("upernet_swin")
    state = load_file(arrays.weights)
    name = "decode_head.bottleneck.batch_norm.bias"
    with pytest.raises(ValueError, match=r"bottleneck\.batch_norm has arrays of shapes \(12,\)"):
        torch_import.from_torch_state(state | {name: np.zeros((3, 4))}, model_of(arrays))
    name = "decode_head.bottleneck.conv.weight"
    with pytest.raises(ValueError, match=r"bottleneck is \(\), and the batch norm .* 12 channels"):
        torch_import.from_torch_state(state | {name: np.array(0.0)}, model_of(arrays))
    arrays = golden("swin_fpn")
    state = load_file(arrays.weights)
    name = "backbone.stages.0.downsample.norm.weight"
    with pytest.raises(ValueError, match=r"layers\.1\.downsample\.norm\.weight is \(3,\)"):
        torch_import.from_torch_state(state | {name: np.zeros(3)}, model_of(arrays))
    arrays = golden("yolos")
    state = load_file(arrays.weights)
    names = ("vit.encoder.mid_position_embeddings", "vit.embeddings.position_embeddings")
    wrong = {names[0]: np.array(1.0), names[1]: np.zeros((2, 36, 16))}
    with pytest.raises(ValueError, match=r"unexpected: mid_pos_embed; 1 of another shape: pos_"):
        torch_import.from_torch_state(state | wrong, model_of(arrays))


def test_a_grid_that_nothing_shows_is_asked_for(golden, tmp_path):
    arrays = golden("yolos")
    model = model_of(arrays, img_size=[26, 19])
    with pytest.raises(ValueError, match=r"of 30 patches don't show .* config\.json beside"):
        torch_import.load_torch_weights(arrays.weights, model)
    save_file(load_file(arrays.weights), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"image_size": [20, 24]}))
    told = []
    torch_import.load_torch_weights(tmp_path, model, tell=told.append)
    assert any("of 5 x 6 patches are resampled to 6 x 4, by PyTorch's rule" in x for x in told)


def test_the_authors_grids_are_known():
    def told(count, size):
        model = create_model("yolos", img_size=size, embed_dim=8, depth=1, num_heads=1)
        length, told = 1 + count + model.num_detection_tokens, []
        state = {"pos_embed": np.zeros((1, length, 8), np.float32)}
        positions.fit_positions(state, model, length, None, "x.pth", told.append)
        return told

    for count, grid in ((50 * 83, "50 x 83"), (49, "7 x 7")):
        (line,) = told(count, (64, 64))
        assert f"of {grid} patches are resampled to 4 x 4" in line
    assert told(32 * 54, (512, 864)) == []
    with pytest.raises(ValueError, match=r"may be of 32 x 54, .* or of 54 x 32, as in the m"):
        told(32 * 54, (864, 512))


def test_config_json_of_a_segmenter_is_compared(imported, tmp_path):
    model, *_ = imported("upernet_swin")

    def load(**config):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "upernet"} | config))
        said = companions.read(tmp_path / "model.safetensors", print)
        companions.check_model(said, model, "weights", print)

    load(backbone_config={"model_type": "swin", "num_heads": [2, 2, 4], "hidden_act": "gelu"})
    with pytest.raises(ValueError, match=r"num_heads is \[1, 2, 4\] there"):
        load(backbone_config={"model_type": "swin", "num_heads": [1, 2, 4]})
    with pytest.raises(ValueError, match="a 'convnext', which is another mechanism"):
        load(backbone_config={"model_type": "convnext"})
    with pytest.raises(ValueError, match=r"pool_scales=\[1, 2\], and the models here pool at"):
        load(pool_scales=[1, 2])


def test_an_epsilon_beside_a_detector_is_its_own(imported, tmp_path):
    model, *_ = imported("yolos")
    config = {"model_type": "yolos", "layer_norm_eps": 1e-12, "hidden_act": "gelu"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_attention_heads": 2}))
    said = companions.read(tmp_path / "model.safetensors", print)
    companions.check_model(said, model, "weights", print)
    assert said.image_size is None
