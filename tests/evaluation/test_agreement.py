import jax
import numpy as np
import pytest

from maskaq_jax import calibration
from maskaq_jax.data.batches import LabelledBatch
from maskaq_jax.evaluation.agreement import (
    Agreement,
    DetectionAgreement,
    MapAgreement,
    SegmentationAgreement,
)
from maskaq_jax.losses.boxes import intersections_over_unions
from maskaq_jax.models import Quantization, create_model, full_precision
from tests import tiny
from tests.dense import Given, numbered_images


def test_agreement_and_divergence_are_those_of_the_valid_images():
    model = create_model("vit", 5, Quantization(2, 2), **tiny.ARGUMENTS)
    images = np.asarray(jax.random.normal(jax.random.key(0), (6, *model.input_shape)))
    params = full_precision(model).init(jax.random.key(1), images)["params"]
    variables = {"params": params, "quant": calibration.calibrate(model, params, images)}
    valid = np.array([True, True, False, True, True, False])
    batch = LabelledBatch(images, np.zeros(6, np.int32), valid)
    evaluator = Agreement()
    counts = evaluator.count(model, {"p": {"params": params}, "q": variables}, batch)
    figures = evaluator.finish([jax.device_get(counts)] * 2)

    logits_p, _ = full_precision(model).apply({"params": params}, images)
    logits_q, _ = model.apply(variables, images)
    p, q = (np.asarray(jax.nn.softmax(logits))[valid] for logits in (logits_p, logits_q))
    divergence = np.sum(p * np.log(p / q), axis=1).mean()
    assert divergence > 1e-3
    np.testing.assert_allclose(figures["divergence"], divergence, rtol=1e-4)
    same = 100 * np.mean(p.argmax(axis=1) == q.argmax(axis=1))
    np.testing.assert_allclose(figures["agreement"], same)
    assert -1 <= figures["feature_cosine"] <= 1


def _count(evaluator, task, p, q, valid):
    """Figures of a model whose answers are given, twice the same batch."""
    model = Given(task, 2)
    batch = LabelledBatch(numbered_images(range(len(valid))), np.zeros(len(valid), np.int32), valid)
    counts = evaluator.count(model, {"p": p, "q": q}, batch)
    return evaluator.finish([jax.device_get(counts)] * 2)


def _divergence(p, q):
    p, q = (np.asarray(jax.nn.softmax(logits), np.float64) for logits in (p, q))
    return np.sum(p * np.log(p / q), axis=-1).mean()


def test_segmenters_agree_by_their_pixels():
    p, q = np.random.default_rng(0).normal(0, 1, (2, 3, 8, 8, 2)).astype(np.float32)
    valid = np.array([True, False, True])
    figures = _count(SegmentationAgreement(), "segmentation", p, q, valid)
    same = p.argmax(axis=-1) == q.argmax(axis=-1)
    expected = {
        "agreement": 100 * same[valid].mean(),
        "divergence": _divergence(p[valid], q[valid]),
    }
    assert figures == pytest.approx(expected, rel=1e-4)
    assert _count(SegmentationAgreement(), "segmentation", p, p, valid) == pytest.approx(
        {"agreement": 100, "divergence": 0}, abs=1e-5
    )


def test_detectors_agree_by_their_tokens_and_the_boxes_of_what_is_found():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1, (2, 3, 4, 3)).astype(np.float32)
    boxes = np.broadcast_to(np.float32([0.5, 0.5, 0.4, 0.4]), (3, 4, 4))
    half = boxes * np.float32([1, 1, 0.5, 1])  # of every box a half
    p, q = (
        {"logits": own, "pred_boxes": box} for own, box in zip(logits, (boxes, half), strict=True)
    )
    valid = np.array([True, True, False])
    figures = _count(DetectionAgreement(), "detection", p, q, valid)
    classes = logits.argmax(axis=-1)
    expected = {
        "agreement": 100 * (classes[0] == classes[1])[valid].mean(),
        "divergence": _divergence(logits[0][valid], logits[1][valid]),
        "box_iou": 50,
    }
    assert (classes[0][valid] != 2).any()
    assert figures == pytest.approx(expected, rel=1e-4)


def test_boxes_of_no_object_are_not_compared():
    logits = np.zeros((1, 2, 3), np.float32)
    logits[0, 0] = [1, 0, 9]
    logits[0, 1] = [0, 9, 1]
    boxes = np.float32([[[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.2, 0.2]]])
    moved = boxes + np.float32([[[0.5, 0, 0, 0], [0, 0, 0, 0]]])
    p, q = ({"logits": logits, "pred_boxes": own} for own in (boxes, moved))
    valid = np.ones(1, bool)
    assert _count(DetectionAgreement(), "detection", p, q, valid)["box_iou"] == pytest.approx(100)
    nothing = {"logits": np.float32([[[0, 0, 9], [0, 0, 9]]]), "pred_boxes": boxes}
    assert "box_iou" not in _count(DetectionAgreement(), "detection", nothing, nothing, valid)


@pytest.mark.parametrize(
    ("other", "iou"),
    [
        ([0, 0, 2, 2], 1), ([2, 0, 4, 2], 0), ([1, 1, 3, 3], 1 / 7), ([9, 9, 9, 9], 0),
        ([0.5, 0.5, 1.5, 1.5], 0.25),
    ],
)  # fmt: skip
def test_iou_is_the_shared_part_of_both(other, iou):
    one, other = np.float32([[0, 0, 2, 2]]), np.float32([other])
    np.testing.assert_allclose(intersections_over_unions(one, other), [iou], rtol=1e-5)
    empty = np.zeros((1, 4), np.float32)
    np.testing.assert_array_equal(intersections_over_unions(empty, empty), [0])


def test_maps_are_compared_place_by_place():
    model = Given("features", 0)
    maps = jax.random.normal(jax.random.key(0), (4, 3, 3, 5))
    batch = LabelledBatch(
        numbered_images([0, 1, 2]), np.zeros(3, np.int32), np.array([True, True, False])
    )

    def cosine(other):
        evaluator = MapAgreement()
        variables = {"p": (maps, 2 * maps), "q": (other, 2 * maps)}
        return evaluator.finish([evaluator.count(model, variables, batch)])["feature_cosine"]

    np.testing.assert_allclose(cosine(maps), 1, rtol=1e-5)
    np.testing.assert_allclose(cosine(-maps), 0, atol=1e-5)
    # Padding does not count.
    np.testing.assert_allclose(cosine(maps.at[2].multiply(-1)), 1, rtol=1e-5)
