import json

import numpy as np
import pytest
from PIL import Image

from maskaq_jax import data
from maskaq_jax.data.coco import open_coco
from maskaq_jax.data.preprocessing import BrokenImageError, Preprocessing
from maskaq_jax.schema import ConfigError
from tests.dense import Given

FIT = Preprocessing(1.0, "bilinear", "fit")
DETECTOR = Given("detection", 2, (32, 64, 3))


def _content():
    """Two pictures; ids of categories have a gap."""
    return {
        "images": [
            {"id": 9, "file_name": "a/wide.png", "width": 80, "height": 20},
            {"id": 4, "file_name": "tall.png", "width": 16, "height": 64},
        ],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 7, "bbox": [8, 4, 40, 12], "area": 300},
            {"id": 2, "image_id": 9, "category_id": 3, "bbox": [0, 0, 80, 20], "iscrowd": 1},
            {"id": 3, "image_id": 4, "category_id": 3, "bbox": [15.5, 0, 1, 64.5]},
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }


@pytest.fixture
def files(tmp_path):
    """Writes a JSON and opens it, for a model of as many classes."""
    pictures = tmp_path / "pictures"
    (pictures / "a").mkdir(parents=True)
    Image.new("RGB", (80, 20), "red").save(pictures / "a" / "wide.png")
    Image.new("RGB", (16, 64), "blue").save(pictures / "tall.png")

    def write(content):
        file = tmp_path / "instances.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return pictures, file

    return write


def _open(files, content, num_classes=2, tell=lambda line: None):
    return open_coco(*files(content), num_classes, (32, 64), FIT, tell)


def test_pictures_lie_at_the_top_left_and_boxes_with_them(files):
    dataset = _open(files, _content())
    assert len(dataset) == 2
    image, number = dataset[0]
    assert number == 0
    assert image.shape == (32, 64, 3)
    assert (image[:16] == (255, 0, 0)).all()
    assert (image[16:] == (124, 116, 104)).all()
    found, placed = dataset.boxes(0), dataset.placement(0)
    np.testing.assert_allclose(found.corners, [[8, 4, 48, 16], [0, 0, 80, 20]])
    canvas = placed.boxes_on_canvas(found.corners)
    np.testing.assert_allclose(canvas, [[6.4, 3.2, 38.4, 12.8], [0, 0, 64, 16]])
    np.testing.assert_allclose(placed.boxes_on_picture(canvas), found.corners)
    # A tall one has columns beside it.
    assert (dataset[1][0][:, :8] == (0, 0, 255)).all()
    assert (dataset[1][0][:, 8:] == (124, 116, 104)).all()


def test_areas_and_crowds_are_those_of_the_file_or_plain(files):
    dataset = _open(files, _content())
    first, second = dataset.boxes(0), dataset.boxes(1)
    assert first.areas.tolist() == [300, 1600]
    assert first.is_crowd.tolist() == [False, True]
    assert second.areas.tolist() == [64.5]
    assert second.is_crowd.tolist() == [False]


@pytest.mark.parametrize(
    ("num_classes", "classes", "names", "told"),
    [
        (2, [1, 0], ("cat", "dog"), "categories in the order of ids"),
        (8, [7, 3], ("0", "1", "2", "cat", "4", "5", "6", "dog"), "ids of its categories"),
    ],
)
def test_classes_are_categories_in_order_or_their_ids(files, num_classes, classes, names, told):
    lines = []
    dataset = _open(files, _content(), num_classes, lines.append)
    assert dataset.boxes(0).classes.tolist() == classes
    assert dataset.class_names == names
    assert len(lines) == 1
    assert told in lines[0]


def test_categories_of_one_name_are_told_apart(files):
    content = _content()
    content["categories"][0]["name"] = "cat"
    assert _open(files, content).class_names == ("cat (3)", "cat (7)")


def test_a_picture_of_another_size_is_not_evaluated(files):
    content = _content()
    content["images"][0]["width"] = 81
    with pytest.raises(BrokenImageError, match=r"wide.png: it has 80 x 20 pixels, not 81 x 20"):
        _open(files, content)[0]


def _without(name):
    return lambda content: content.pop(name)


def _set(name, place, key, value):
    return lambda content: content[name][place].update({key: value})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without("annotations"), "no JSON of COCO's instances: it has no list of objects 'annot"),
        (_set("images", 0, "file_name", "gone.png"), "1 of its 2 images are missing from .*gone"),
        (_set("images", 0, "id", "9"), "'id' is missing, or another type, in {'id': '9'"),
        (_set("images", 1, "id", 9), "two images have the id 9"),
        (_set("images", 1, "width", 0), "image tall.png has no pixels"),
        (lambda content: content["images"].clear(), "has no images"),
        (lambda content: content["annotations"].clear(), "holds no boxes"),
        (lambda content: content["categories"].clear(), "has no categories"),
        (_set("categories", 0, "id", 3), "two categories have the same id"),
        (
            lambda content: content["categories"].append({"id": 5}),
            "3 categories with ids from 3 to 7, but the model has 2 classes",
        ),
        (_set("annotations", 1, "image_id", 5), "annotation 2 is of no image that there is"),
        (_set("annotations", 1, "category_id", 5), "annotation 2 is of category 5, which there"),
        (_set("annotations", 1, "bbox", [0, 0, 82, 9]), r"annotation 2 has a box outside its .*a/"),
        (_set("annotations", 1, "bbox", [-3, 0, 9, 9]), r"of 80 x 20 pixels: \[-3, 0, 9, 9\]"),
        (_set("annotations", 1, "bbox", [9, 9, -4, 4]), "annotation 2 has a box outside its image"),
        (_set("annotations", 1, "bbox", [0, 0, 9]), "annotation 2 has no box of four numbers"),
        (_set("annotations", 1, "bbox", [0, 0, 9, None]), "has no box of four numbers"),
        (_set("annotations", 1, "area", "large"), "annotation 2 has an area that is no number"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(files, spoil, message):
    content = _content()
    spoil(content)
    with pytest.raises(ValueError, match=message) as refusal:
        _open(files, content)
    assert "\n" not in str(refusal.value)
    assert "instances.json" in str(refusal.value)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, "\0"])
def test_what_is_no_json_of_coco_is_refused(files, content):
    with pytest.raises(ValueError, match=r"instances.json (is not readable|is no JSON of COCO)"):
        _open(files, content)


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        (
            {},
            Given("classification", 2),
            "'coco' has boxes, for detection, but the model's task is",
        ),
        ({}, Given("segmentation", 2), "but the model's task is segmentation"),
        ({}, Given("detection", 2, (8, 8, 1)), "has images of 3 channels"),
        ({"path": "gone"}, DETECTOR, "config.evaluation.path: no folder 'gone'"),
        ({"labels": ""}, DETECTOR, "config.evaluation.labels is missing"),
        ({"labels": "gone.json"}, DETECTOR, "config.evaluation.labels: no file gone.json"),
        ({"preprocessing": Preprocessing()}, DETECTOR, "must keep the whole picture"),
        ({"preprocessing": Preprocessing(0.5, "bicubic", "squash")}, DETECTOR, "'squash' and 0.5"),
    ],
)
def test_what_can_not_be_evaluated_on_is_told_by_its_field(files, changes, model, message):
    pictures, file = files(_content())
    fields = {"path": str(pictures), "labels": str(file), "preprocessing": FIT} | changes
    with pytest.raises(ConfigError) as refusal:
        data.Coco(**fields).check(model)
    assert message in str(refusal.value)


def test_a_source_opens_itself_for_a_model(files):
    pictures, file = files(_content())
    source = data.Coco(str(pictures), str(file), FIT)
    source.check(DETECTOR)
    assert source.name == f"coco {pictures} {file}"
    assert source.open(DETECTOR)[1][0].shape == (32, 64, 3)
