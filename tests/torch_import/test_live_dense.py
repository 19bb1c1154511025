"""Detectors, segmenters and features of transformers against ours, live: every size that has a
name, at a small image.
"""

import jax
import numpy as np
import pytest

from maskaq_jax import torch_import
from maskaq_jax.models import create_model
from tests import live

torch = pytest.importorskip("torch", reason="needs the torch extra", exc_type=ImportError)
live.import_or_skip("transformers")

from tests.torch_import import oracles  # noqa: E402 (needs both)

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),  # PyTorch's and transformers' own
]

TOLERANCE = 1e-4


def assert_close(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def arguments_of(model, **changes):
    """What an oracle is made of, for a model of ours."""
    own = {name: getattr(model, name) for name in model.__dataclass_fields__ if name != "parent"}
    return own | changes


def compare_detector(model, stored, folder):
    """With weights whose positions are of images of the size `stored`."""
    theirs = oracles.yolos(arguments_of(model, img_size=stored))
    theirs.save_pretrained(folder)
    params = torch_import.load_torch_weights(folder, model)
    pixels = oracles.images(model.input_shape[:2])
    outputs, out = jax.jit(model.apply)({"params": params}, pixels)
    expected = oracles.run(theirs, pixels)
    assert_close(outputs["logits"], expected.logits)
    assert_close(outputs["pred_boxes"], expected.pred_boxes)
    assert_close(out["tokens"], expected.last_hidden_state)
    return theirs


def compare_segmenter(model, folder):
    theirs = oracles.upernet(arguments_of(model))
    theirs.save_pretrained(folder)
    params = torch_import.load_torch_weights(folder, model)
    pixels = oracles.images(model.input_shape[:2])
    logits, out = jax.jit(model.apply)({"params": params}, pixels)
    assert_close(logits, oracles.as_maps([oracles.run(theirs, pixels).logits])[0])
    maps = oracles.as_maps(oracles.run(theirs.backbone, pixels).feature_maps)
    for found, expected in zip(out["feature_maps"], maps, strict=True):
        assert_close(found, expected)
    return theirs, params


def compare_pyramid(model):
    theirs = oracles.pyramid(arguments_of(model))
    params = torch_import.from_torch_state(theirs.state(), model)
    pixels = oracles.images(model.input_shape[:2])
    levels, out = jax.jit(model.apply)({"params": params}, pixels)
    maps, expected = oracles.run(theirs, pixels)
    for found, wanted in zip(out["feature_maps"], oracles.as_maps(maps), strict=True):
        assert_close(found, wanted)
    for found, wanted in zip(levels, oracles.as_maps(expected), strict=True):
        assert_close(found, wanted)


def compare_linear_segmenter(model, stored):
    theirs = oracles.linear_segmenter(arguments_of(model, img_size=stored))
    backbone, head = theirs.state()
    params = torch_import.from_torch_state(backbone | head, model)
    pixels = oracles.images(model.img_size)
    logits, _ = jax.jit(model.apply)({"params": params}, pixels)
    assert_close(logits, oracles.as_maps([oracles.run(theirs, pixels)])[0])


def test_a_detector_in_memory_has_the_names_that_are_imported():
    model = create_model("yolos", **oracles.YOLOS)
    theirs = oracles.yolos(oracles.YOLOS)
    state = oracles.to_numpy(theirs.state_dict())
    assert "vit.encoder.interpolation.mid_position_embeddings" in state
    params = torch_import.from_torch_state(state, model)
    pixels = oracles.images(model.input_shape[:2])
    outputs, _ = jax.jit(model.apply)({"params": params}, pixels)
    assert_close(outputs["logits"], oracles.run(theirs, pixels).logits)


def test_a_segmenter_in_memory_has_the_names_that_are_imported(tmp_path):
    model = create_model("upernet_swin", **oracles.UPERNET)
    theirs, params = compare_segmenter(model, tmp_path)
    state = oracles.to_numpy(theirs.state_dict())
    assert "backbone.swin.encoder.layers.0.blocks.0.attention.q_proj.weight" in state
    again = torch_import.from_torch_state(state, model)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_weights_written_under_mmdetection_s_names_are_theirs():
    arguments = oracles.FPN
    expected = oracles.pyramid(arguments).state()
    model = create_model("swin_fpn", **arguments)
    state = torch_import.to_mmdetection_state(torch_import.from_torch_state(expected, model))
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolos_tiny", "yolos_small", "yolos_base"])
def test_detectors_of_every_size(name, tmp_path):
    compare_detector(create_model(name, img_size=(70, 100)), (64, 96), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["upernet_swin_tiny", "upernet_swin_small", "upernet_swin_base"])
def test_segmenters_of_every_size(name, tmp_path):
    compare_segmenter(create_model(name, img_size=(64, 90)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_fpn_tiny", "swin_fpn_small", "swin_fpn_base"])
def test_features_of_every_size(name):
    compare_pyramid(create_model(name, img_size=(64, 90)))


@pytest.mark.slow
@pytest.mark.parametrize("size", ["small", "base"])
def test_linear_heads_of_every_size(size):
    name = f"vit_{size}_patch14_dinov2_linear_seg"
    compare_linear_segmenter(create_model(name, img_size=70), stored=98)
