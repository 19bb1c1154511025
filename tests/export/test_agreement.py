"""How outputs are compared."""

import numpy as np
import pytest

from maskaq_jax import data
from maskaq_jax.export import agreement


def test_outputs_are_compared_by_class_by_distance_and_by_labels():
    expected = np.array([[4.0, 0, 0], [0, 5, 0], [0, 0, 10], [1, 0, 0]], np.float32)
    found = expected + np.array([[0, 0, 0.003], [0, 0.01, 0], [0, 0, 0.009], [0, 2, 0]])
    found = found.astype(np.float32)
    labels = np.array([0, 1, 0, data.UNKNOWN_LABEL])
    told = agreement.compare(found, expected, labels)
    assert (told.num_images, told.same_class, told.near) == (4, 0.75, 0.5)
    assert told.top1 == told.top1_of_model == pytest.approx(2 / 3)
    assert agreement.compare(found[3:], expected[3:], labels[3:]).top1 is None


def test_no_images_are_told():
    with pytest.raises(OSError, match="no evaluation image could be read"):
        agreement.compare(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))
