import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.images import backgrounds
from maskaq_jax.images.pixels import Pixels

KEY = jax.random.key(0)
# Black and white are other values in each channel.
PIXELS = Pixels(mean=(0.5, 0.25), std=(0.5, 0.125))


def test_boxes_are_of_all_sizes_and_anywhere():
    boxes = np.asarray(backgrounds.draw_boxes(KEY, jnp.arange(500), 60, 40))[..., 0]
    rows, columns = boxes.any(axis=2), boxes.any(axis=1)
    np.testing.assert_array_equal(boxes, rows[:, :, None] & columns[:, None])
    for lines in (rows, columns):
        size = lines.shape[1]
        # Lines next to each other: the inside begins and ends once.
        assert (np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(int), axis=1) == 1).sum() == 500
        share = lines.sum(axis=1) / size
        assert share.min() >= 0.4 - 1 / size
        assert share.max() == 1
        np.testing.assert_allclose(share.mean(), 0.7, atol=0.02)
        # Where a box leaves room, all of it is as likely before the box as after it.
        outside, before = (~lines).sum(axis=1), lines.argmax(axis=1)
        before = before[outside > 2] / outside[outside > 2]
        np.testing.assert_allclose(before.mean(), 0.5, atol=0.05)
        np.testing.assert_allclose(before.std(), 12**-0.5, atol=0.05)
    shares = np.corrcoef(rows.mean(axis=1), columns.mean(axis=1))
    assert abs(shares[0, 1]) < 0.15


def test_another_key_gives_other_boxes():
    keys = KEY, jax.random.key(1)
    one, other = (backgrounds.draw_boxes(key, jnp.arange(20), 60, 40) for key in keys)
    assert (one != other).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(("background", "expected"), [("black", (-1, -2)), ("white", (1, 6))])
def test_all_but_the_box_is_plain(background, expected):
    indices = jnp.arange(3)
    images = jax.random.normal(KEY, (3, 12, 12, 2))
    painted = backgrounds.paint(images, background, KEY, indices, PIXELS)
    boxes = np.broadcast_to(backgrounds.draw_boxes(KEY, indices, 12, 12), images.shape)
    assert 0.2 < boxes.mean() < 0.8
    np.testing.assert_array_equal(painted[boxes], images[boxes])
    plain = np.broadcast_to(np.asarray(expected, np.float32), images.shape)
    np.testing.assert_array_equal(painted[~boxes], plain[~boxes])


def test_a_background_without_a_colour_cannot_be_painted():
    images = jnp.zeros((3, 12, 12, 2))
    with pytest.raises(ValueError, match="'auto' has no colour yet"):
        backgrounds.paint(images, "auto", KEY, jnp.arange(3), PIXELS)


def test_without_a_background_images_stay_as_they_are():
    images = jax.random.normal(KEY, (3, 12, 12, 2))
    assert backgrounds.paint(images, "none", KEY, jnp.arange(3), PIXELS) is images
