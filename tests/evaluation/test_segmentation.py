import jax
import numpy as np
import pytest

from maskaq_jax.data.batches import LabelledBatch
from maskaq_jax.devices import parallel
from maskaq_jax.evaluation.loop import EvaluationLoop
from maskaq_jax.evaluation.segmentation import Segmentation
from tests.dense import Given, numbered_images

NAMES = ("sky", "sea", "land", "none")


@pytest.fixture(scope="module")
def problem():
    """Logits and label maps of six images, some pixels without label; no pixel of the last class is
    labelled or found.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, (6, 8, 8)).astype(np.int32)
    logits = rng.normal(0, 1, (6, 8, 8, 4)).astype(np.float32)
    np.put_along_axis(logits, np.maximum(labels, 0)[..., None], 1.5, axis=-1)
    logits[..., 3] = -9
    return logits, labels


def _measure(problem, num_devices=1, batch_size=6, broken=()):
    logits, labels = problem
    mesh = parallel.make_mesh(jax.devices()[:num_devices])
    loop = EvaluationLoop(Segmentation(NAMES), Given("segmentation", 4), mesh)
    batches = [
        LabelledBatch(
            numbered_images(rows.indices),
            labels[rows.indices],
            rows.valid & ~np.isin(rows.indices, broken),
        )
        for rows in parallel.rows_of_batches(6, batch_size, mesh)
    ]
    return loop.run(logits, batches, lambda images: None)


def _by_a_loop(logits, labels):
    """The figures, pixel by pixel."""
    found = logits.argmax(axis=-1)
    ious, accuracies = {}, []
    for number, name in enumerate(NAMES):
        intersection = union = labelled = 0
        for label, answer in zip(labels.ravel(), found.ravel(), strict=True):
            if label < 0:
                continue
            intersection += label == answer == number
            union += number in (label, answer)
            labelled += label == number
        if union:
            ious[name] = 100 * intersection / union
        if labelled:
            accuracies.append(100 * intersection / labelled)
    right = (labels == found)[labels >= 0]
    return {
        "miou": np.mean(list(ious.values())),
        "pixel_accuracy": 100 * right.mean(),
        "mean_accuracy": np.mean(accuracies),
        **{f"iou/{name}": iou for name, iou in ious.items()},
    }


def test_figures_are_those_of_a_loop_over_pixels(problem):
    figures, num_images = _measure(problem)
    expected = _by_a_loop(*problem)
    assert num_images == 6
    assert "iou/none" not in figures
    assert figures == pytest.approx(expected)
    assert 30 < figures["miou"] < 90


@pytest.mark.parametrize(("num_devices", "batch_size"), [(1, 4), (4, 4), (4, 6)])
def test_devices_batches_and_padding_change_nothing(problem, num_devices, batch_size):
    assert _measure(problem, num_devices, batch_size) == _measure(problem)


def test_images_that_are_not_read_do_not_count(problem):
    logits, labels = problem
    figures, num_images = _measure(problem, broken=[1, 5])
    kept = [0, 2, 3, 4]
    assert num_images == 4
    assert figures == pytest.approx(_by_a_loop(logits[kept], labels[kept]))


def test_a_class_that_is_found_where_it_is_not_labelled_has_iou_0(problem):
    logits, labels = problem
    figures, _ = _measure((np.where(np.arange(4) == 3, 9.0, 0.0) + 0 * logits, labels))
    assert figures["iou/none"] == 0
    assert figures["miou"] == 0


def test_maps_without_any_class_are_told(problem):
    logits, labels = problem
    with pytest.raises(OSError, match="no pixel of the label maps has a class"):
        _measure((logits, np.full_like(labels, -1)))
