"""Windows hold the tokens that lie together, and the mask keeps apart what the shift joined."""

import jax
import numpy as np

from maskaq_jax.models import windows


def test_windows_are_put_back_where_they_were():
    x = jax.random.normal(jax.random.key(0), (2, 12, 12, 3))
    split = windows.split_windows(x, 4)
    assert split.shape == (18, 16, 3)
    np.testing.assert_array_equal(split[4], x[0, 4:8, 4:8].reshape(16, 3))
    np.testing.assert_array_equal(windows.merge_windows(split, 4, 12), x)


def test_a_grid_is_padded_below_and_to_the_right():
    x = jax.random.normal(jax.random.key(0), (1, 5, 8, 2))
    padded = windows.pad_grid(x, 4)
    assert padded.shape == (1, 8, 8, 2)
    np.testing.assert_array_equal(padded[:, :5], x)
    assert not padded[:, 5:].any()
    assert windows.pad_grid(padded, 4) is padded


def test_only_neighbours_in_the_image_are_not_masked():
    mask = windows.shift_mask(4, 2, 1)
    assert mask.shape == (4, 4, 4)
    # Inside, all of a window are neighbours; in the corner it holds the image's four corners.
    np.testing.assert_array_equal(mask[0], 0)
    np.testing.assert_array_equal(mask[3] < 0, ~np.eye(4, dtype=bool))
