import numpy as np
import pytest

from maskaq_jax.runs import overlays
from maskaq_jax.runs.overlays import colour_of, draw_boxes, draw_label_map, draw_outputs

GREY = np.full((10, 12, 3), 100, np.uint8)


def test_boxes_are_outlined_on_their_own_pixels():
    drawn = draw_boxes(GREY, np.array([[2, 1, 7, 6]]), np.array([3]))
    outline = np.zeros((10, 12), bool)
    outline[1:6, 2:7] = True
    outline[2:5, 3:6] = False
    assert (drawn[outline] == colour_of(3)).all()
    assert (drawn[~outline] == 100).all()


def test_boxes_that_reach_outside_are_cut_off_and_empty_ones_are_a_point():
    drawn = draw_boxes(GREY, np.array([[-5.0, -5, 40, 40], [4, 4, 4, 4]]), np.array([0, 1]))
    assert (drawn[0] == colour_of(0)).all()
    assert (drawn[:, -1] == colour_of(0)).all()
    assert (drawn[4, 4] == colour_of(1)).all()
    assert (drawn[5:9, 1:11] == 100).all()
    assert (drawn[4, 5:11] == 100).all()


def test_a_label_map_lies_over_the_picture():
    label_map = np.full((10, 12), -1)
    label_map[:, :4], label_map[:, 4:6] = 2, 0
    drawn = draw_label_map(GREY, label_map)
    for columns, label in ((slice(0, 4), 2), (slice(4, 6), 0)):
        expected = (100 + np.array(colour_of(label))) / 2
        assert np.abs(drawn[:, columns] - expected).max() <= 0.5
    assert (drawn[:, 6:] == 100).all()
    assert (draw_label_map(GREY, np.full((10, 12), -1)) == 100).all()


def test_classes_have_colours_of_their_own():
    colours = {colour_of(label) for label in range(150)}
    assert len(colours) > 140


def test_what_a_detector_is_sure_of_is_drawn():
    logits = np.array([[[9.0, 0, 0], [0, 9, 0], [0, 0, 9], [0.4, 0, 0.2]]])
    boxes = np.array([[[0.5, 0.5, 0.5, 0.6]] * 4])
    boxes[0, 1, :2] = [0.25, 0.3]
    drawn = draw_outputs("detection", {"logits": logits, "pred_boxes": boxes}, GREY[None])
    corners = np.array([[3, 2, 9, 8], [0, 0, 6, 6]])
    np.testing.assert_array_equal(drawn[0], draw_boxes(GREY, corners, np.array([0, 1])))


def test_the_likeliest_class_of_each_pixel_is_drawn():
    label_map = np.arange(120).reshape(10, 12) % 3
    drawn = draw_outputs("segmentation", np.eye(3)[label_map][None], GREY[None])
    np.testing.assert_array_equal(drawn[0], draw_label_map(GREY, label_map))


def test_a_classifier_finds_nothing_in_places():
    assert draw_outputs("classification", np.zeros((1, 5)), GREY[None]) is None


@pytest.mark.parametrize("label", [0, 7])
def test_colours_are_bright(label):
    assert max(overlays.colour_of(label)) == 255
