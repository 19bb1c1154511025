import jax
import numpy as np

from maskaq_jax.devices.keys import image_keys
from maskaq_jax.synthesis import targets

KEYS = image_keys(jax.random.key(0), np.arange(64))
LABELS = np.arange(64) % 5


def test_objects_lie_in_the_image_and_have_tokens_of_their_own():
    classes, boxes, tokens = targets.draw_objects(KEYS, LABELS, 5, 20)
    np.testing.assert_array_equal(classes[:, 0], LABELS)
    assert set(np.unique(classes)) == set(range(5))
    corners = np.concatenate(
        [boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2]
    )
    assert corners.min() > -1e-6
    assert corners.max() < 1 + 1e-6
    counts = {len(set(row)) for row in np.asarray(tokens).tolist()}
    assert counts == {1, 2, 3, 4}
    for row, own in zip(np.asarray(tokens), np.asarray(boxes), strict=True):
        # The same token always asks for the same box.
        assert len(np.unique(own, axis=0)) == len(set(row.tolist()))


def test_fewer_tokens_than_objects_find_one_each():
    _, _, tokens = targets.draw_objects(KEYS, LABELS, 5, 2)
    assert set(np.unique(tokens)) == {0, 1}


def test_label_maps_are_smooth_and_have_the_label():
    maps = np.asarray(targets.draw_label_maps(KEYS, LABELS, 5, (24, 32)))
    assert maps.shape == (64, 24, 32)
    has_label = [(own == label).any() for own, label in zip(maps, LABELS, strict=True)]
    assert np.mean(has_label) > 0.8
    is_edge = (np.diff(maps, axis=1) != 0).mean()
    assert 0 < is_edge < 0.2


def test_an_image_s_targets_are_its_own_wherever_it_lies():
    whole = targets.draw_objects(KEYS, LABELS, 5, 20)
    part = targets.draw_objects(KEYS[8:16], LABELS[8:16], 5, 20)
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one[8:16], other), whole, part)
