"""What is measured of detectors and segmenters; whole runs show it of classifiers."""

import contextlib
import dataclasses
import types

import jax
import numpy as np
import pytest

from maskaq_jax import config as config_lib
from maskaq_jax.data.boxes import plain_boxes
from maskaq_jax.data.preprocessing import Placement
from maskaq_jax.devices import parallel
from maskaq_jax.models import Quantization
from maskaq_jax.runs.measurements import Measurements
from tests.dense import BYTES, Given, numbered_images

NAMES = ("cat", "dog")


class _Numbered(list):
    """Images of which each is its number, with a cat in all of them."""

    class_names = NAMES

    def boxes(self, index):
        return plain_boxes([[0, 0, 4, 4]], [0])

    def placement(self, index):
        return Placement((8, 8), (8, 8), 0, 0)


def _example(task, number):
    label_map = np.zeros((8, 8), np.int32)
    return np.full((8, 8, 3), number, np.uint8), label_map if task == "segmentation" else number


def _answers(task, is_right):
    """Of four images, right ones, or another class in another place."""
    if task == "segmentation":
        logits = np.zeros((4, 8, 8, 2), np.float32)
        logits[..., 0 if is_right else 1] = 1
        return logits
    logits = np.zeros((4, 2, 3), np.float32)
    logits[..., 2] = 2
    logits[:, 0, 0 if is_right else 1] = 4 + np.arange(4)
    centre = 0.25 if is_right else 0.75
    boxes = np.full((4, 2, 4), [centre, centre, 0.5, 0.5], np.float32)
    return {"logits": logits, "pred_boxes": boxes}


@pytest.fixture(params=["detection", "segmentation"])
def task(request):
    return request.param


@pytest.fixture
def measure(task):
    """Measurements of a model that is right in full precision, with or without labelled images."""

    def make(is_labelled=True):
        config = config_lib.from_dict({})
        samples = dataclasses.replace(config.samples, num_samples=4, held_out=2)
        evaluation = dataclasses.replace(config.evaluation, batch_size=3)
        config = dataclasses.replace(config, pixels=BYTES, samples=samples, evaluation=evaluation)
        dataset = _Numbered(_example(task, number) for number in range(4))
        inputs = types.SimpleNamespace(
            config=config,
            model=Given(task, 2, quantization=Quantization(4, 4)),
            mesh=parallel.make_mesh(jax.devices()[:2]),
            params=_answers(task, is_right=True),
            evaluation=dataset if is_labelled else None,
            is_labelled=is_labelled,
        )
        progress = types.SimpleNamespace(
            phase=lambda name: contextlib.nullcontext(lambda units: None), message=print, warn=print
        )
        clock = types.SimpleNamespace(stop_if_asked=lambda: None)
        session = types.SimpleNamespace(inputs=inputs, progress=progress, clock=clock)
        return Measurements(session)

    return make


@pytest.fixture(autouse=True)
def variables_are_answers(monkeypatch):
    """P's variables are `{"params": answers}`."""
    apply = Given.apply

    def apply_given(self, variables, images):
        if isinstance(variables, dict):
            variables = variables.get("params", variables)
        return apply(self, variables, images)

    monkeypatch.setattr(Given, "apply", apply_given)


def test_figures_are_those_of_the_task(task, measure):
    right, wrong = (measure().accuracy_of_q(_answers(task, is_right)) for is_right in (True, False))
    main, of_class = ("ap", "ap/cat") if task == "detection" else ("miou", "iou/cat")
    assert right.num_images == wrong.num_images == 4
    assert right.figures[main] == pytest.approx(100)
    assert wrong.figures[main] == 0
    assert right.figures[of_class] == pytest.approx(100)
    assert measure().accuracy_of_p() == right


def test_without_labels_there_is_no_figure_but_how_both_agree(task, measure):
    measurements = measure(is_labelled=False)
    assert measurements.accuracy_of_p() is None
    assert measurements.accuracy_of_q(_answers(task, True)) is None
    for is_right in (True, False):
        figures, count = measurements.agreement(_answers(task, is_right), numbered_images)
        assert count == 4
        # A detector's other token finds nothing in either.
        differs = 0 if task == "segmentation" else 50
        assert figures["agreement"] == pytest.approx(100 if is_right else differs)
        assert (figures["divergence"] < 1e-5) == is_right


def test_models_that_agree_are_at_no_distance(task, measure):
    measurements = measure(is_labelled=False)
    near, far = (
        measurements.distance(_answers(task, is_right), numbered_images)["distance"]
        for is_right in (True, False)
    )
    assert near == pytest.approx(0, abs=1e-5)
    assert far > 0.1


def test_boxes_that_move_are_at_a_distance(measure, task):
    if task == "segmentation":
        pytest.skip("has no boxes")
    moved = _answers(task, is_right=True)
    moved["pred_boxes"] = moved["pred_boxes"] * np.float32([1, 1, 1, 0.5])
    distance = measure(is_labelled=False).distance(moved, numbered_images)
    assert distance["distance"] == pytest.approx(0.5, abs=1e-4)
    assert distance["box_iou"] == pytest.approx(50)
