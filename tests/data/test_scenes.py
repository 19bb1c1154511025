import hashlib

import numpy as np
import pytest

from maskaq_jax import data
from maskaq_jax.data.scenes import (
    CANVAS,
    GARMENTS,
    MAPPED,
    SPLITS,
    PlacedGarment,
    Scenes,
    compose_scene,
    draw_scene,
)
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.schema import ConfigError
from tests.dense import Given

DETECTOR = Given("detection", 10, (CANVAS, CANVAS, 3))
SEGMENTER = Given("segmentation", 11, (CANVAS, CANVAS, 3))


@pytest.fixture(scope="module")
def garments():
    images, labels = data.load_embedded("test", 1)
    return images[..., 0], labels


@pytest.fixture(scope="module")
def drawn(garments):
    return [draw_scene(*garments, (0, SPLITS["test"], index)) for index in range(60)]


def _bounds(mask):
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_scene_is_the_same_whenever_it_is_drawn(garments, drawn):
    again = draw_scene(*garments, (0, SPLITS["test"], 7))
    for one, other in zip(again, drawn[7], strict=True):
        np.testing.assert_array_equal(one, other)


def test_scenes_are_those_that_figures_were_measured_on(drawn):
    digest = hashlib.sha256()
    for scene in drawn:
        digest.update(scene.image.tobytes() + scene.label_map.astype(np.uint8).tobytes())
    assert digest.hexdigest() == (
        "28e89151e5360faa916db12dfc554c88b4b6f3922c925977bdcc5e428402deff"
    )


@pytest.mark.parametrize("key", [(1, 2, 7), (0, 1, 7), (0, 2, 8)])
def test_seed_split_and_number_each_make_another_scene(garments, drawn, key):
    assert (draw_scene(*garments, key).image != drawn[7].image).any()


def test_there_are_one_to_four_garments_of_all_classes(drawn):
    assert {len(scene.classes) for scene in drawn} == {1, 2, 3, 4}
    assert set(np.concatenate([scene.classes for scene in drawn])) == set(range(10))


def test_boxes_classes_and_areas_are_those_of_the_label_map(drawn):
    for scene in drawn:
        assert set(np.unique(scene.label_map)) - {0} == set(scene.classes + 1)
        assert scene.areas.sum() == (scene.label_map > 0).sum()
        if len(set(scene.classes)) < len(scene.classes):
            continue  # two of a class have one region in the map
        for corners, label, area in zip(scene.corners, scene.classes, scene.areas, strict=True):
            mask = scene.label_map == label + 1
            assert corners.tolist() == _bounds(mask)
            assert area == mask.sum()


def test_what_is_in_no_garment_is_black(drawn):
    for scene in drawn:
        assert (scene.image[scene.label_map == 0] == 0).all()
        assert (scene.image[scene.label_map > 0] > 0).mean() > 0.7


def _square(label, top, left, side, level):
    silhouette = np.ones((side, side), bool)
    return PlacedGarment(np.full((side, side), level, np.uint8), silhouette, label, top, left)


def test_later_garments_are_in_front_and_boxes_hold_what_is_seen():
    behind, front = _square(3, 0, 0, 20, 50), _square(5, 0, 10, 20, 90)
    aside = [_square(1, 50, 50, 5, 30), _square(2, 80, 80, 5, 30)]
    scene = compose_scene([behind, front, *aside])
    assert scene.classes.tolist() == [3, 5, 1, 2]
    assert scene.corners[:2].tolist() == [[0, 0, 10, 20], [10, 0, 30, 20]]
    assert scene.areas[:2].tolist() == [200, 400]
    assert (scene.label_map[:20, 10:30] == 6).all()
    assert (scene.image[:20, 10:30] == 90).all()


def test_a_garment_that_is_almost_hidden_is_left_out():
    hidden, front = _square(3, 0, 0, 20, 50), _square(5, 0, 9, 20, 90)
    aside = [_square(1, 50, 50, 5, 30), _square(2, 80, 80, 5, 30)]
    scene = compose_scene([hidden, front, *aside])
    assert scene.classes.tolist() == [5, 1, 2]
    assert (scene.image[:20, :9] == 0).all()
    assert (scene.label_map[:20, :9] == 0).all()


@pytest.mark.parametrize("split", ["test", "validation"])
def test_detectors_and_segmenters_see_the_same_scenes(split):
    source = Scenes(split)
    source.check(DETECTOR)
    source.check(SEGMENTER)
    detected, mapped = source.open(DETECTOR), source.open(SEGMENTER)
    assert len(detected) == len(mapped) == 1000
    (image, number), (same, label_map) = detected[5], mapped[5]
    np.testing.assert_array_equal(image, same)
    assert image.shape == (CANVAS, CANVAS, 3)
    assert number == 5
    found = detected.boxes(5)
    assert set(found.classes + 1) == set(np.unique(label_map)) - {0}
    assert not found.is_crowd.any()
    np.testing.assert_array_equal(
        detected.placement(5).boxes_on_picture(found.corners), found.corners
    )
    assert detected.class_names == GARMENTS
    assert mapped.class_names == MAPPED


def test_a_scene_that_there_is_not_ends_an_iteration():
    with pytest.raises(IndexError):
        Scenes("test").open(DETECTOR)[1000]


@pytest.mark.parametrize(
    ("source", "model", "message"),
    [
        (Scenes("train"), DETECTOR, "unknown config.evaluation.split 'train'"),
        (
            Scenes("test"),
            Given("classification", 10, (96, 96, 3)),
            "has boxes and label maps, for detection and segmentation, but the model's task is "
            "classification",
        ),
        (Scenes("test"), Given("detection", 11, (96, 96, 3)), "10 classes for detection"),
        (Scenes("test"), Given("segmentation", 10, (96, 96, 3)), "11 classes for segmentation"),
        (Scenes("test"), Given("detection", 10, (96, 64, 3)), "the model takes 96 x 64"),
        (data.ScenesReal(4, Pixels()), Given("detection", 10), "trains on scenes of 96 x 96"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(source, model, message):
    with pytest.raises(ConfigError) as refusal:
        source.check(model)
    assert message in str(refusal.value)


def test_real_scenes_are_of_garments_that_the_teachers_know():
    source = data.ScenesReal(3, Pixels())
    source.check(DETECTOR)
    images = source.read(DETECTOR)
    garments, labels = data.load_embedded("real", 1)
    expected = draw_scene(garments[..., 0], labels, (0, SPLITS["real"], 2)).image
    np.testing.assert_array_equal(
        images[2], Pixels().from_bytes(np.repeat(expected[..., None], 3, axis=-1))
    )
