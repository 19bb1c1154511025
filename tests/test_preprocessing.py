import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskaq_jax.preprocessing import Preprocessing, preprocess, read_image

SIZES = [(40, 30), (31, 47), (32, 32), (20, 90)]


def _picture(size, mode="RGB"):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_any_picture_becomes_rgb_of_the_models_size(size, mode):
    pixels = preprocess(_picture(size, mode), 24, Preprocessing())
    assert pixels.shape == (24, 24, 3)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_pixels_of_more_than_8_bits_are_refused(mode):
    picture = Image.fromarray(np.full((8, 8), 300, np.uint16 if mode == "I;16" else np.int32))
    with pytest.raises(ValueError, match=r"more than 8 bits \(mode (I|F)"):
        preprocess(picture if mode == "I;16" else picture.convert(mode), 8, Preprocessing())


def test_the_whole_of_a_square_picture_is_kept_without_a_crop():
    picture = _picture((24, 24))
    np.testing.assert_array_equal(preprocess(picture, 24, Preprocessing(1.0)), picture)


def test_the_centre_is_cropped():
    # Resized to 25 by 50 pixels, rows 15 to 35 and columns 2 to 22 are left.
    pixels = np.zeros((50, 25, 3), np.uint8)
    pixels[15:35, 2:22] = 255
    cropped = preprocess(Image.fromarray(pixels), 20, Preprocessing(0.8))
    assert (cropped == 255).all()


def _by_torchvisions_formulas(picture, size, crop_ratio, interpolation):
    """Its Resize(int(size / crop_ratio)) and CenterCrop(size)."""
    width, height = picture.size
    short = int(size / crop_ratio)
    long = int(short * max(width, height) / min(width, height))
    width, height = (short, long) if width <= height else (long, short)
    picture = picture.resize((width, height), getattr(Image.Resampling, interpolation.upper()))
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.asarray(picture)[top : top + size, left : left + size]


# The last size's margins are odd numbers and a half, which round up: to even, as Python does it.
@pytest.mark.parametrize("size", [(640, 480), (333, 500), (256, 256), (1000, 300), (334, 500)])
@pytest.mark.parametrize("crop_ratio", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_agree_with_torchvisions_formulas(size, crop_ratio, interpolation):
    picture = _picture(size)
    theirs = _by_torchvisions_formulas(picture, 224, crop_ratio, interpolation)
    ours = preprocess(picture, 224, Preprocessing(crop_ratio, interpolation))
    assert np.abs(ours - theirs.astype(float)).mean() < 1


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "too many open files")])
def test_what_the_machine_fails_at_is_no_broken_image(monkeypatch, error):
    def fail(file):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(type(error)):
        read_image(Path("0.png"), "0.png", 24, Preprocessing())


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop_ratio", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_agree_with_torchvision(size, crop_ratio, interpolation):
    transforms = pytest.importorskip("torchvision.transforms", exc_type=ImportError)
    picture = _picture(size)
    theirs = transforms.Compose(
        [
            transforms.Resize(int(24 / crop_ratio), transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(24),
        ]
    )(picture)
    ours = preprocess(picture, 24, Preprocessing(crop_ratio, interpolation)).astype(float)
    assert np.abs(ours - np.asarray(theirs)).mean() < 1
