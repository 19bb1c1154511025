import itertools

import numpy as np
import pytest
from PIL import Image

from maskaq_jax.images.pixels import Pixels
from maskaq_jax.runs import sample_sheet


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_stand_beside_their_lit_regions(tmp_path, channels):
    # Two white images of 8 x 8 pixels, 2 x 2 patches, one patch and all patches informative.
    path = tmp_path / "samples.png"
    pixels = Pixels((0.5,) * channels, (0.5,) * channels)
    masks = np.array([[0, 1, 0, 0], [1, 1, 1, 1]], np.float32)
    sample_sheet.draw(path, np.ones((2, 8, 8, channels)), masks, (2, 2), pixels)
    with Image.open(path) as picture:
        sheet = np.asarray(picture)
    side, gap = 112, 8
    cell = 2 * side + gap // 2 + 2 * gap
    for number, mask in enumerate(masks):
        left = gap + number * cell
        assert (sheet[gap : gap + side, left : left + side] == 255).all()
        lit = sheet[gap : gap + side, left + side + gap // 2 :][:, :side]
        for (row, column), marked in zip(itertools.product(range(2), range(2)), mask, strict=True):
            centre = lit[28 + 56 * row, 28 + 56 * column]
            assert (centre == (255 if marked else 76)).all()
    # Outlined against the patches that are not marked, and the border of the image.
    first = sheet[gap : gap + side, gap + side + gap // 2 :][:, :side]
    orange = (first == (255, 80, 0)).all(axis=-1)
    assert orange[:56, 56:].any()
    assert not orange[60:].any()


def test_what_is_found_stands_on_the_right(tmp_path):
    path, pixels = tmp_path / "samples.png", Pixels((0.5,) * 3, (0.5,) * 3)
    found = np.full((5, 8, 8, 3), (0, 90, 200), np.uint8)
    sample_sheet.draw(path, np.ones((5, 8, 8, 3)), np.ones((5, 4)), (2, 2), pixels, found)
    with Image.open(path) as picture:
        sheet = np.asarray(picture)
    side, gap, between = 112, 8, 4
    cell = 3 * side + 2 * between + 2 * gap
    assert sheet.shape == (2 * (side + gap) + gap, 4 * cell + gap, 3)
    for number in range(5):
        row, column = divmod(number, 4)
        left = gap + column * cell + 2 * (side + between)
        top = gap + row * (side + gap)
        assert (sheet[top : top + side, left : left + side] == (0, 90, 200)).all()
        assert (sheet[top : top + side, left - between : left] == 255).all()
