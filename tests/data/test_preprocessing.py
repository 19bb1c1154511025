import errno
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskaq_jax.data import label_maps
from maskaq_jax.data.preprocessing import Preprocessing, place, preprocess, read_image
from maskaq_jax.images.pixels import Pixels
from tests import live

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


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
def test_a_squashed_picture_is_kept_whole(size, interpolation):
    picture = _picture(size)
    squashed = preprocess(picture, 24, Preprocessing(1.0, interpolation, "squash"))
    resampling = getattr(Image.Resampling, interpolation.upper())
    np.testing.assert_array_equal(squashed, picture.resize((24, 24), resampling))


def test_a_squashed_picture_is_cropped_on_all_sides():
    picture = _picture((60, 25))
    cropped = preprocess(picture, 24, Preprocessing(0.75, "bilinear", "squash"))
    whole = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(cropped, whole[4:28, 4:28])


@pytest.mark.parametrize(
    ("size", "resized"),
    [((640, 480), (24, 32)), ((480, 640), (24, 18)), ((40, 20), (16, 32)), ((3, 3), (24, 24))],
)
def test_a_fitted_picture_is_whole_and_at_the_top_left(size, resized):
    picture = _picture(size)
    fitted = preprocess(picture, (24, 32), Preprocessing(1.0, "bilinear", "fit"))
    assert fitted.shape == (24, 32, 3)
    expected = np.asarray(picture.resize(resized[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(fitted[: resized[0], : resized[1]], expected)
    beside = np.ones((24, 32), bool)
    beside[: resized[0], : resized[1]] = False
    # What is beside it becomes 0, as by ImageNet's statistics.
    assert np.abs(Pixels().from_bytes(fitted[beside])).max(initial=0) < 0.02


@pytest.mark.parametrize(
    ("settings", "resized"),
    [
        (Preprocessing(1.0, "bilinear", "fit"), (648, 864)),
        (Preprocessing(1.0, "bilinear", "fit", shortest_edge=512), (512, 682)),
        (Preprocessing(1.0, "bilinear", "fit", shortest_edge=512, multiple=16), (512, 672)),
        (Preprocessing(1.0, "bilinear", "fit", multiple=1000), (648, 864)),
        (Preprocessing(0.9, "bilinear", "shorter"), (960, 1280)),
        (Preprocessing(0.9, "bilinear", "squash"), (960, 960)),
    ],
)
def test_the_settings_bound_a_pictures_sides(settings, resized):
    assert place((480, 640), 864, settings).resized == resized


@pytest.mark.parametrize(
    ("picture", "edges", "resized"),
    [
        *[((480, 640), (512, 864), (512, 672)), ((640, 480), (512, 864), (672, 512))],
        *[((427, 640), (512, 864), (512, 752)), ((333, 500), (800, 1333), (800, 1200))],
        *[((500, 500), (512, 864), (512, 512)), ((100, 300), (512, 864), (288, 864))],
        ((612, 612), (800, 1333), (800, 800)),
    ],
)
def test_a_fitted_picture_has_the_size_that_yolos_gives_it(picture, edges, resized):
    """By transformers 4.57; with the torch extra it is asked itself."""
    settings = Preprocessing(1.0, "bilinear", "fit", shortest_edge=edges[0], multiple=16)
    assert place(picture, edges[1], settings).resized == resized


def test_a_picture_fills_images_that_are_no_square():
    settings = Preprocessing(1.0, "bilinear", "shorter")
    assert place((30, 60), (20, 60), settings).resized == (30, 60)
    assert place((30, 60), (20, 30), settings).resized == (20, 40)
    assert preprocess(_picture((60, 30)), (20, 30), settings).shape == (20, 30, 3)


@pytest.mark.parametrize("resize", ["fit", "squash", "shorter"])
def test_boxes_go_where_their_pixels_go(resize):
    # White on black: what is white on the canvas is where the box says.
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[20:40, 30:60] = 255
    settings = Preprocessing(1.0, "nearest", resize)
    canvas = preprocess(Image.fromarray(pixels), (40, 80), settings)[..., 0]
    placed = place((60, 90), (40, 80), settings)
    (corners,) = placed.boxes_on_canvas(np.array([[30, 20, 60, 40]]))
    # Nearest pixels, and crops by whole ones.
    rows, columns = np.nonzero(canvas == 255)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(corners, found, atol=1.01)
    np.testing.assert_allclose(placed.boxes_on_picture(corners[None]), [[30, 20, 60, 40]])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resize": "fit"}, "keeps the whole picture, so crop_ratio must be 1, got 0.9"),
        ({"shortest_edge": 3}, "are those of resize 'fit', but it is 'shorter'"),
        ({"resize": "squash", "multiple": 2}, "are those of resize 'fit', but it is 'squash'"),
    ],
)
def test_settings_that_say_nothing_together_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**fields)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (43, 64), (50, 50), (300, 100), (61, 97)])
@pytest.mark.parametrize("edges", [(128, 216), (80, 133), (60, 90)])
def test_fitted_pictures_are_those_of_the_processor_of_yolos(size, edges):
    transformers = live.import_or_skip("transformers")
    shortest, longest = edges
    processor = transformers.YolosImageProcessor(
        size={"shortest_edge": shortest, "longest_edge": longest}, do_pad=False
    )
    (theirs,) = processor(_picture(size), return_tensors="np")["pixel_values"]
    settings = Preprocessing(1.0, "bilinear", "fit", shortest_edge=shortest, multiple=16)
    canvas = Pixels().from_bytes(preprocess(_picture(size), longest, settings))
    _, height, width = theirs.shape
    assert place(size[::-1], longest, settings).resized == (height, width)
    assert np.abs(canvas[:height, :width] - theirs.transpose(1, 2, 0)).max() < 1e-4
    assert np.abs(canvas[height:]).max(initial=0) < 0.02
    assert np.abs(canvas[:, width:]).max(initial=0) < 0.02


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zero_is_nothing", [True, False])
def test_squashed_label_maps_are_those_of_the_processor_of_segmenters(zero_is_nothing):
    transformers = live.import_or_skip("transformers")
    numbers = np.random.default_rng(1).integers(0, 7, (30, 40), np.uint8)
    processor = transformers.SegformerImageProcessor(
        size={"height": 24, "width": 32}, do_reduce_labels=zero_is_nothing
    )
    theirs = processor(_picture((40, 30)), segmentation_maps=numbers, return_tensors="np")
    settings, file = Preprocessing(1.0, "bilinear", "squash"), io.BytesIO()
    Image.fromarray(numbers).save(file, "PNG")
    ours = label_maps.read_labels(file, "map", (24, 32), settings, zero_is_nothing)
    labels = np.asarray(theirs["labels"][0])
    np.testing.assert_array_equal(ours, np.where(labels == 255, -1, labels))
    image = Pixels().from_bytes(preprocess(_picture((40, 30)), (24, 32), settings))
    expected = theirs["pixel_values"][0].transpose(1, 2, 0)
    assert np.abs(image - expected).max() < 1e-4


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["ViTImageProcessor", "DeiTImageProcessor", "CLIPImageProcessor"])
def test_pixels_agree_with_the_processors_of_transformers(size, name):
    transformers = live.import_or_skip("transformers")
    kinds = {
        "ViTImageProcessor": ({"size": {"height": 24, "width": 24}, "resample": 2}, 1.0, "squash"),
        "DeiTImageProcessor": (
            {"size": {"height": 32, "width": 32}, "crop_size": {"height": 24, "width": 24}},
            0.75,
            "squash",
        ),
        "CLIPImageProcessor": (
            {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}},
            1.0,
            "shorter",
        ),
    }
    fields, crop_ratio, resize = kinds[name]
    processor = getattr(transformers, name)(**fields, do_normalize=False, do_rescale=False)
    (theirs,) = processor(_picture(size), return_tensors="np")["pixel_values"]
    interpolation = "bilinear" if fields.get("resample") == 2 else "bicubic"
    ours = preprocess(_picture(size), 24, Preprocessing(crop_ratio, interpolation, resize))
    assert np.abs(ours - theirs.transpose(1, 2, 0).astype(float)).mean() < 1


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
    transforms = live.import_or_skip("torchvision.transforms")
    picture = _picture(size)
    theirs = transforms.Compose(
        [
            transforms.Resize(int(24 / crop_ratio), transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(24),
        ]
    )(picture)
    ours = preprocess(picture, 24, Preprocessing(crop_ratio, interpolation)).astype(float)
    assert np.abs(ours - np.asarray(theirs)).mean() < 1
