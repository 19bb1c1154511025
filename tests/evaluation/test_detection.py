import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.data.batches import LabelledBatch
from maskaq_jax.data.boxes import plain_boxes
from maskaq_jax.data.preprocessing import Placement
from maskaq_jax.devices import parallel
from maskaq_jax.evaluation import detection
from maskaq_jax.evaluation.average_precision import Detections, summarise
from maskaq_jax.evaluation.detection import Detection
from maskaq_jax.evaluation.loop import EvaluationLoop
from maskaq_jax.losses.boxes import corners_of
from tests.dense import Given, numbered_images

NAMES = ("cat", "dog")
BOX = [10.0, 10.0, 30.0, 50.0]


def _found(*rows):
    """Detections of (corners, class, score)."""
    corners, classes, scores = zip(*rows, strict=True) if rows else ([], [], [])
    return Detections(np.array(corners).reshape(-1, 4), np.array(classes, int), np.array(scores))


def _inner(iou):
    """A box inside of BOX that has this IoU with it."""
    left, top, right, bottom = BOX
    return [left, top, right, top + iou * (bottom - top)]


def test_what_is_found_exactly_is_100_percent():
    truth = plain_boxes([BOX, [50, 50, 90, 90]], [0, 1])
    figures = summarise([truth], [_found((BOX, 0, 0.9), ([50, 50, 90, 90], 1, 0.3))], NAMES)
    for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ar1", "ar100", "ap/cat", "ap/dog"):
        assert figures[name] == pytest.approx(100), name
    assert "ap_large" not in figures  # there is no such object


@pytest.mark.parametrize(("iou", "passed"), [(0.49, 0), (0.52, 1), (0.77, 6), (0.96, 10)])
def test_a_box_counts_at_the_ious_that_it_reaches(iou, passed):
    figures = summarise([plain_boxes([BOX], [0])], [_found((_inner(iou), 0, 0.9))], NAMES)
    assert figures["ap"] == pytest.approx(10 * passed)
    assert figures["ar100"] == pytest.approx(10 * passed)
    assert figures["ap50"] == pytest.approx(100 * (iou >= 0.5))
    assert figures["ap75"] == pytest.approx(100 * (iou >= 0.75))


def test_precision_is_that_of_the_surest_detections():
    # Of the two objects the second is found behind two that are none: precision is 1 up to a recall
    # of one half, which are 51 of the 101 recalls asked, and 2/4 beyond.
    truths = [plain_boxes([BOX], [0]), plain_boxes([BOX], [0])]
    aside = [60.0, 60.0, 80.0, 80.0]
    found = [_found((BOX, 0, 0.9), (aside, 0, 0.8)), _found((aside, 0, 0.7), (BOX, 0, 0.6))]
    figures = summarise(truths, found, ("cat",))
    assert figures["ap50"] == pytest.approx(100 * (51 + 50 * 0.5) / 101)
    assert figures["ar1"] == pytest.approx(50)
    assert figures["ar10"] == pytest.approx(100)


def test_an_object_is_found_once_and_by_its_class_alone():
    truth = plain_boxes([BOX], [0])
    twice = summarise([truth], [_found((BOX, 0, 0.9), (BOX, 0, 0.8))], NAMES)
    assert twice["ap"] == pytest.approx(100)  # the second one comes when all are found
    assert summarise([truth], [_found((BOX, 1, 0.9))], NAMES)["ap"] == 0
    assert summarise([truth], [_found()], NAMES)["ap"] == 0


def test_what_is_found_in_a_crowd_counts_neither_way():
    crowd = plain_boxes([BOX, [0, 50, 100, 100]], [0, 0])._replace(is_crowd=np.array([0, 1], bool))
    in_crowd = ([20, 60, 30, 80], 0, 0.95)
    figures = summarise([crowd], [_found((BOX, 0, 0.9), in_crowd)], NAMES)
    assert figures["ap"] == pytest.approx(100)
    plain = crowd._replace(is_crowd=np.zeros(2, bool))
    assert summarise([plain], [_found((BOX, 0, 0.9), in_crowd)], NAMES)["ap"] < 60


def test_the_order_of_images_and_of_detections_is_nothing():
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 100, (12, 3, 2, 2)), axis=2).reshape(12, 3, 4)
    labels = rng.integers(0, 2, (12, 3))
    truths = [plain_boxes(*one) for one in zip(corners, labels, strict=True)]
    scores = rng.permutation(60).reshape(12, 5) / 60
    found = [
        Detections(
            np.concatenate([truth + rng.normal(0, 2, (3, 4)), rng.uniform(0, 50, (2, 4))]),
            np.concatenate([label, rng.integers(0, 2, 2)]),
            score,
        )
        for truth, label, score in zip(corners, labels, scores, strict=True)
    ]
    figures = summarise(truths, found, NAMES)
    assert 5 < figures["ap"] < 95
    order = rng.permutation(12)
    shuffled = [
        Detections(*(values[places] for values in found[i]))
        for i, places in zip(order, (rng.permutation(5) for _ in order), strict=True)
    ]
    again = summarise([truths[i] for i in order], shuffled, NAMES)
    assert again.keys() == figures.keys()
    for name, value in figures.items():
        assert again[name] == pytest.approx(value), name


def test_the_likeliest_object_of_each_token_is_found_the_surest_first():
    logits = jnp.log(jnp.array([[[0.2, 0.1, 0.7], [0.05, 0.9, 0.05], [0.6, 0.3, 0.1]]]))
    boxes = jnp.array([[[0.5, 0.5, 0.2, 0.4], [0.2, 0.3, 0.4, 0.2], [1.0, 0.0, 0.2, 0.2]]])
    found = detection.find(logits, boxes, most=2)
    np.testing.assert_array_equal(found["classes"], [[1, 0]])
    np.testing.assert_allclose(found["scores"], [[0.9, 0.6]], rtol=1e-5)
    expected = [[[0.0, 0.2, 0.4, 0.4], [0.9, -0.1, 1.1, 0.1]]]
    np.testing.assert_allclose(found["corners"], expected, atol=1e-6)
    # "No object" is no class, though it is what the first token says.
    everything = detection.find(logits, boxes, most=100)
    np.testing.assert_allclose(everything["scores"], [[0.9, 0.6, 0.2]], rtol=1e-5)


class _Pictures:
    """Six pictures, twice as wide and four times as high as the model's images of 8 x 8."""

    class_names = NAMES

    def __init__(self, rng):
        self._corners = np.sort(rng.uniform(0, 16, (6, 2, 2)), axis=1).reshape(6, 4) * [1, 2, 1, 2]

    def boxes(self, index):
        return plain_boxes([self._corners[index]], [index % 2])

    def placement(self, index):
        return Placement((32, 16), (8, 8), 0, 0)


@pytest.fixture(scope="module")
def problem():
    """Pictures, and what a model of three tokens says: the right box, another one, and none."""
    rng = np.random.default_rng(3)
    dataset = _Pictures(rng)
    corners = np.stack([dataset.boxes(i).corners[0] for i in range(6)]) / [16, 32, 16, 32]
    right = np.concatenate(
        [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1
    )
    boxes = np.stack([right + 0.03, rng.uniform(0, 1, (6, 4)), right], axis=1)
    logits = rng.normal(0, 0.3, (6, 3, 3))
    logits[np.arange(6), 0, np.arange(6) % 2] += 3
    logits[:, 2, 2] += 9
    return dataset, {"logits": logits.astype(np.float32), "pred_boxes": boxes.astype(np.float32)}


def _measure(problem, num_devices, batch_size, broken=()):
    dataset, variables = problem
    mesh = parallel.make_mesh(jax.devices()[:num_devices])
    loop = EvaluationLoop(Detection(dataset), Given("detection", 2), mesh)
    batches = [
        LabelledBatch(
            numbered_images(rows.indices), rows.indices, rows.valid & ~np.isin(rows.indices, broken)
        )
        for rows in parallel.rows_of_batches(6, batch_size, mesh)
    ]
    return loop.run(variables, batches, lambda images: None)


def test_detections_are_compared_in_the_pixels_of_the_pictures(problem):
    dataset, variables = problem
    measured = _measure(problem, 1, 6)
    found = [
        Detections(
            np.asarray(corners_of(jnp.asarray(boxes[kept]))) * [16, 32, 16, 32],
            p[kept, :2].argmax(axis=1),
            p[kept, :2].max(axis=1),
        )
        for boxes, p in zip(
            variables["pred_boxes"], np.asarray(jax.nn.softmax(variables["logits"])), strict=True
        )
        for kept in [np.argsort(-p[:, :2].max(axis=1))]
    ]
    expected = summarise([dataset.boxes(i) for i in range(6)], found, NAMES)
    assert measured.num_images == 6
    assert measured.figures.keys() == expected.keys()
    for name, value in expected.items():
        assert measured.figures[name] == pytest.approx(value, abs=1e-3), name
    assert 20 < measured.figures["ap"] < 100


@pytest.mark.parametrize(("num_devices", "batch_size"), [(1, 4), (4, 4), (4, 6)])
def test_devices_batches_and_padding_change_nothing(problem, num_devices, batch_size):
    assert _measure(problem, num_devices, batch_size) == _measure(problem, 1, 6)


def test_objects_of_images_that_are_not_read_are_not_missed(problem):
    figures, num_images = _measure(problem, 1, 6, broken=[0, 2, 4])  # all that have a cat
    assert num_images == 3
    assert "ap/cat" not in figures
    assert figures["ap"] == figures["ap/dog"]
