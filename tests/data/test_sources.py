"""Kinds of data that say what they are called, check themselves against a model and open."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from maskaq_jax import config as config_lib
from maskaq_jax import data
from maskaq_jax.data.preprocessing import Preprocessing
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import create_model
from maskaq_jax.schema import ConfigError
from tests.dense import Given

SMALL = {"img_size": 28, "patch_size": 14, "embed_dim": 8, "depth": 1, "num_heads": 1}
MODEL = create_model("vit", 10, **SMALL)
GREY = create_model("vit", 10, **SMALL, in_chans=1)
DETECTOR = Given("detection", 10)
LARGE = create_model("vit", 10, **(SMALL | {"img_size": 56}))


def _source(**fields):
    config = config_lib.default()
    for name, value in fields.items():
        config.evaluation[name] = value
    return config_lib.evaluation_source(config_lib.from_dict(config.to_dict()))


def test_fields_of_a_config_tell_which_kind_it_is():
    assert _source() is None
    assert _source(dataset="fashion_mnist", split="test") == data.Embedded("test")
    preprocessing = Preprocessing()
    assert _source(dataset="folder", path="val") == data.Folder("val", "", preprocessing)
    tfds = data.Tfds("a/b", "test", "there", preprocessing)
    assert _source(dataset="tfds:a/b", split="test", path="there") == tfds
    assert _source(dataset="scenes", split="test") == data.Scenes("test")
    files = {"path": "val", "labels": "there"}
    assert _source(dataset="coco", **files) == data.Coco("val", "there", preprocessing)
    maps = data.LabelMaps("val", "there", preprocessing)
    assert _source(dataset="label_maps", **files) == maps
    assert _source(dataset="ade20k", **files) == dataclasses.replace(maps, zero_is_nothing=True)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"dataset": "fashion_mnist", "split": "test"}, "fashion_mnist test"),
        ({"dataset": "folder", "path": "~/val", "labels": "list"}, "folder ~/val"),
        ({"dataset": "tfds:a", "split": "test[:9]"}, "tfds:a test[:9]"),
        ({"dataset": "tfds:a", "split": "test", "path": "there"}, "tfds:a there test"),
        ({"dataset": "scenes", "split": "test"}, "scenes test"),
        ({"dataset": "coco", "path": "val", "labels": "a.json"}, "coco val a.json"),
        ({"dataset": "ade20k", "path": "val", "labels": "maps"}, "ade20k val maps"),
    ],
)
def test_results_call_them_by_their_fields(fields, name):
    assert _source(**fields).name == name


@pytest.mark.parametrize(
    ("source", "model", "message"),
    [
        (data.Embedded("tset"), MODEL, "config.evaluation.split 'tset': did you mean 'test'"),
        (data.Embedded("test"), LARGE, "28 x 28 pixels and 10 classes; the model takes 56 x 56"),
        (data.EmbeddedReal(8, Pixels()), LARGE, "config.method 'real' trains on the embedded"),
        (data.Folder("gone", "", Preprocessing()), MODEL, "config.evaluation.path: no folder"),
        (data.Folder(".", "gone", Preprocessing()), MODEL, "config.evaluation.labels: no file"),
        (data.Folder(".", "", Preprocessing()), GREY, "'folder' has images of 3 channels"),
        (data.Embedded("test"), DETECTOR, "has labelled images, for classification, but the model"),
        (data.Folder(".", "", Preprocessing()), DETECTOR, "but the model's task is detection"),
        (data.Tfds("a", "b", "", Preprocessing()), DETECTOR, "must keep the whole picture"),
        (data.Coco(".", "", Preprocessing()), MODEL, "but the model's task is classification"),
        (data.Tfds("a", "", "", Preprocessing()), MODEL, "config.evaluation.split is missing"),
        (data.Tfds("a", "b", "", Preprocessing()), GREY, "'tfds:a' has images of 3 channels"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_the_fields_name(source, model, message):
    with pytest.raises(ConfigError) as refusal:
        source.check(model)
    assert message in str(refusal.value)


@pytest.mark.parametrize(("model", "channels"), [(MODEL, 3), (GREY, 1)])
def test_embedded_images_have_the_channels_of_the_model(model, channels):
    source = data.Embedded("validation")
    source.check(model)
    dataset = source.open(model)
    assert len(dataset) == 5_000
    assert dataset[0][0].shape == (28, 28, channels)


def test_a_folder_is_opened_at_the_size_of_the_model(tmp_path):
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        Image.new("RGB", (40, 50), (label,) * 3).save(tmp_path / str(label) / "0.png")
    source = data.Folder(str(tmp_path), "", Preprocessing())
    source.check(LARGE)
    dataset = source.open(LARGE)
    assert [dataset[i][1] for i in range(len(dataset))] == list(range(10))
    assert dataset[3][0].shape == (56, 56, 3)


def test_real_images_are_as_many_as_asked_for_and_normalised():
    pixels = Pixels()
    images = data.EmbeddedReal(8, pixels).read(MODEL)
    expected, _ = data.load_embedded("real", 3)
    np.testing.assert_array_equal(images, pixels.from_bytes(expected[:8]))
    with pytest.raises(ConfigError, match="num_samples is 1025, but only 1024 real images ship"):
        data.EmbeddedReal(1025, pixels).read(MODEL)


@pytest.mark.parametrize("method", list(config_lib.METHODS))
def test_only_the_method_real_trains_on_real_images(method):
    config = config_lib.from_dict({"method": method})
    assert (config_lib.real_images(config) is not None) == (method == "real")


@pytest.mark.parametrize(
    ("dataset", "kind"), [("fashion_mnist", data.EmbeddedReal), ("scenes", data.ScenesReal)]
)
def test_real_images_that_ship_are_of_the_kind_that_is_evaluated_on(dataset, kind):
    config = config_lib.from_dict({"method": "real", "evaluation": {"dataset": dataset}})
    assert isinstance(config_lib.real_images(config), kind)
