"""How the outputs of a detector, a segmenter or a pyramid are compared."""

import dataclasses

import numpy as np
import pytest

from maskaq_jax.config import Config
from maskaq_jax.data.preprocessing import BrokenImageError
from maskaq_jax.export import dense_agreement
from tests.dense import BYTES, Given

SETTINGS = dataclasses.replace(Config(), pixels=BYTES)
rng = np.random.default_rng(0)


class Numbered:
    """Images whose pixels are their number, with labels."""

    class_names = ("sky", "sea", "land")

    def __init__(self, labels, broken=()):
        self.labels, self.broken = labels, broken

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if index in self.broken:
            raise BrokenImageError(f"image {index}")
        return np.full((8, 8, 3), index, np.uint8), self.labels[index]


def _numbered(answers):
    """Outputs by the numbers of images."""

    def compute(images):
        numbers = np.rint(images[:, 0, 0, 0]).astype(int)
        return answers(numbers)

    return compute


def test_label_maps_are_compared_by_pixels_and_by_labels():
    logits = rng.normal(size=(5, 8, 8, 3)).astype(np.float32)
    labels = logits.argmax(axis=-1).astype(np.int32)
    others = logits.copy()
    others[:, :4, :4] *= -1  # at a quarter of the pixels
    found = dense_agreement.measure(
        *(_numbered(lambda numbers: others[numbers]), _numbered(lambda numbers: logits[numbers])),
        *(Numbered(labels, broken=(1,)), SETTINGS, Given("segmentation", 3)),
    )
    assert found.num_images == 4
    assert found.agreement["agreement"] == pytest.approx(75)
    assert found.of_model["miou"] == pytest.approx(100)
    assert found.of_file["pixel_accuracy"] == pytest.approx(75)


def test_maps_are_compared_by_their_cosine():
    maps = rng.normal(size=(3, 4, 4, 6)).astype(np.float32)
    found = dense_agreement.measure(
        *(_numbered(lambda numbers: (maps[numbers], maps[numbers])),) * 2,
        *(Numbered(np.zeros(3, np.int32)), SETTINGS, Given("features", 0)),
    )
    assert found.agreement == {"feature_cosine": pytest.approx(1)}
    assert found.of_file == found.of_model == {}


def test_no_images_are_told():
    labels = np.zeros((1, 8, 8), np.int32)
    same = _numbered(lambda numbers: np.zeros((len(numbers), 8, 8, 3), np.float32))
    with pytest.raises(OSError, match="no evaluation image could be read"):
        dense_agreement.measure(
            *(same, same, Numbered(labels, broken=(0,)), SETTINGS, Given("segmentation", 3))
        )
