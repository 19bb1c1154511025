import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from maskaq_jax import torch_import
from maskaq_jax.models import model_names


@pytest.mark.parametrize(
    ("name", "classes", "weights", "mean"),
    [
        ("vit_small_patch16_224", 1000, "w.pth", 0.5),
        ("vit_large_patch16_224", 10, "w.pth", 0.5),
        ("vit_base_patch16_siglip_224", 0, "w.pth", 0.5),
        ("vit_base_patch32_clip_quickgelu_224", 0, "w.pth", 0.48145466),
        ("deit_tiny_patch16_224", 1000, "w.pth", 0.485),
        ("vit_small_patch14_dinov2", 0, "w.pth", 0.485),
        ("vit", 3, "B_16.npz", 0.5),
    ],
)
def test_published_weights_have_a_usual_normalisation(name, classes, weights, mean):
    assert torch_import.usual_normalisation(name, classes, weights).mean[0] == mean


@pytest.mark.parametrize("name", ["vit", "swin", "vit_small_patch16_224"])
def test_of_families_and_backbones_of_any_training_it_is_unknown(name):
    assert name in model_names()
    assert torch_import.usual_normalisation(name, 0, "w.pth") is None


HALVES, NONE = {"mean": (0.5,) * 3}, {}


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("processor_config.json", {"image_processor": {"image_mean": [0.5] * 3}}, HALVES),
        ("processor_config.json", {"image_processor": 3}, NONE),
        ("open_clip_config.json", {"preprocess_cfg": {"mean": [0.5] * 3}}, HALVES),
        (
            "open_clip_config.json",
            {"preprocess_cfg": {"resize_mode": "squash", "interpolation": "bicubic"}},
            {"resize": "squash", "interpolation": "bicubic"},
        ),
        ("config.json", {"architecture": "x", "mean": [0.5] * 3}, HALVES),
        ("preprocessor_config.json", {"image_mean": 0.5}, HALVES),
        (
            "preprocessor_config.json",
            {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51] * 3},
            HALVES | {"std": (0.2,) * 3},
        ),
        (
            "preprocessor_config.json",
            {"rescale_factor": 2 / 255, "image_mean": [1.0] * 3},
            HALVES,
        ),
        (
            "preprocessor_config.json",
            {"crop_pct": 0.875, "size": {"shortest_edge": 224}},
            {"resize": "shorter", "crop_ratio": 0.875},
        ),
    ],
)
def test_every_file_beside_weights_says_how_pictures_are_made(tmp_path, file, content, expected):
    save_file({"a": np.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / file).write_text(json.dumps(content))
    found = torch_import.read_companions(tmp_path).pictures
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == (pytest.approx(value) if isinstance(value, tuple) else value)
