"""The detector and the segmenter that ship with the package find what is in scenes."""

import importlib

import jax
import pytest

from maskaq_jax import config, torch_import
from maskaq_jax.assets.scenes_teacher import Figures
from maskaq_jax.data import scenes
from maskaq_jax.storage import paths

MOST_BYTES = 4_000_000


@pytest.mark.parametrize(
    ("name", "metric", "least"), [("scenes_yolos", "ap", 45), ("scenes_upernet", "miou", 60)]
)
def test_an_embedded_teacher_knows_its_scenes(monkeypatch, name, metric, least):
    monkeypatch.setattr(scenes, "NUM_SCENES", 100)
    settings = config.validated(importlib.import_module(f"configs.{name}").get_config("w=32,a=32"))
    model = config.create_model(settings)
    weights = paths.weights_path(settings.model.weights)
    assert weights.stat().st_size < MOST_BYTES
    params = torch_import.load_torch_weights(weights, model)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) < 1.5e6
    assert Figures("test", model, settings.pixels)(params)[metric] > least
