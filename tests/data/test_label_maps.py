import numpy as np
import pytest
from PIL import Image

from maskaq_jax import data
from maskaq_jax.data.label_maps import open_label_maps
from maskaq_jax.data.preprocessing import Preprocessing
from maskaq_jax.schema import ConfigError
from tests.dense import Given

SQUASH = Preprocessing(1.0, "bilinear", "squash")
SEGMENTER = Given("segmentation", 3, (8, 12, 3))
NUMBERS = np.repeat(np.arange(4, dtype=np.uint8), 3)[None].repeat(8, axis=0)  # [8, 12]


@pytest.fixture
def folders(tmp_path):
    """Pictures of 12 x 8 pixels and their label maps, 0 to 3 in columns."""
    pictures, labels = tmp_path / "images", tmp_path / "annotations"
    for name in ("a/first", "second"):
        for folder, ending, image in (
            (pictures, ".jpg", Image.new("RGB", (12, 8), "red")),
            (labels, ".png", Image.fromarray(NUMBERS)),
        ):
            path = (folder / name).with_suffix(ending)
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return pictures, labels


def _open(folders, num_classes=4, zero_is_nothing=False, settings=SQUASH, tell=print):
    return open_label_maps(*folders, num_classes, (8, 12), settings, zero_is_nothing, tell)


def test_numbers_are_classes(folders):
    dataset = _open(folders)
    assert len(dataset) == 2
    image, label_map = dataset[0]
    assert image.shape == (8, 12, 3)
    assert label_map.dtype == np.int32
    np.testing.assert_array_equal(label_map, NUMBERS)
    assert dataset.class_names == ("0", "1", "2", "3")


def test_zero_is_nothing_in_those_of_ade20k(folders):
    _, label_map = _open(folders, num_classes=3, zero_is_nothing=True)[0]
    np.testing.assert_array_equal(label_map, NUMBERS.astype(int) - 1)


@pytest.mark.parametrize("zero_is_nothing", [True, False])
def test_255_is_nothing_in_all(folders, zero_is_nothing):
    Image.fromarray(np.where(NUMBERS == 3, 255, NUMBERS).astype(np.uint8)).save(
        folders[1] / "second.png"
    )
    _, label_map = _open(folders, zero_is_nothing=zero_is_nothing)[1]
    assert (label_map[:, 9:] == -1).all()
    assert label_map[:, :9].max() == 2 - zero_is_nothing


def test_of_a_palette_the_numbers_count(folders):
    labels = Image.frombytes("P", (12, 8), NUMBERS.tobytes())
    labels.putpalette([200, 10, 10] * 256)
    labels.save(folders[1] / "second.png")
    np.testing.assert_array_equal(_open(folders)[1][1], NUMBERS)


def test_label_maps_go_the_way_of_their_pictures(folders):
    # Fitted into 8 x 12, a picture of 12 x 4 pixels has the rest of the rows beside it.
    Image.new("RGB", (12, 4), "red").save(folders[0] / "second.jpg")
    Image.fromarray(NUMBERS[:4]).save(folders[1] / "second.png")
    image, label_map = _open(folders, settings=Preprocessing(1.0, "bilinear", "fit"))[1]
    np.testing.assert_array_equal(label_map[:4], NUMBERS[:4])
    assert (label_map[4:] == -1).all()
    assert (image[4:] == (124, 116, 104)).all()
    # Its centre, twice as large.
    _, label_map = _open(folders, settings=Preprocessing(1.0, "bilinear", "shorter"))[1]
    np.testing.assert_array_equal(label_map, NUMBERS[:, 3:9].repeat(2, axis=1))


def test_label_maps_without_a_picture_are_told(folders):
    lines = []
    (folders[0] / "second.jpg").unlink()
    assert len(_open(folders, tell=lines.append)) == 1
    assert lines == [f"{folders[1]}: label maps without an image: {folders[1] / 'second.png'}"]


def test_label_maps_may_lie_below_the_pictures(folders):
    inside = folders[0] / "annotations"
    folders[1].rename(inside)
    assert len(_open((folders[0], inside))) == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (Image.fromarray(NUMBERS + 2), "second.png holds 5, but the model has 4 classes, from 0"),
        (Image.new("RGB", (12, 8)), "second.png is an image of mode RGB: expected class numbers"),
        (Image.new("L", (8, 12)), "second.png is 8 x 12 pixels, but its image 12 x 8"),
        (b"no picture", "second.png can't be read: cannot identify"),
        (b"version https://git-lfs", "second.png can't be read: this is a Git LFS pointer"),
        (None, "1 of 2 images of .*images have no label map: no file .*second.png"),
    ],
)
def test_label_maps_that_do_not_fit_are_refused_in_one_line(folders, labels, message):
    path = folders[1] / "second.png"
    if labels is None:
        path.unlink()
    elif isinstance(labels, bytes):
        path.write_bytes(labels)
    else:
        labels.save(path)
    with pytest.raises(ValueError, match=message) as refusal:
        _open(folders)
    assert "\n" not in str(refusal.value)


def test_classes_are_counted_from_1_where_0_is_nothing(folders):
    with pytest.raises(ValueError, match="holds 3, but the model has 2 classes, from 1 where 0 is"):
        _open(folders, num_classes=2, zero_is_nothing=True)


def test_a_folder_without_pictures_is_refused(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        _open((tmp_path / "empty", folders[1]))


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({}, Given("detection", 3), "has label maps, for segmentation, but the model's task is"),
        ({}, Given("segmentation", 3, (8, 8, 1)), "has images of 3 channels"),
        ({"path": "gone"}, SEGMENTER, "config.evaluation.path: no folder 'gone'"),
        ({"labels": ""}, SEGMENTER, "config.evaluation.labels is missing: name a folder"),
        (
            {"labels": "images"},
            SEGMENTER,
            "is the folder of config.evaluation.path: label maps take one",
        ),
    ],
)
def test_what_can_not_be_evaluated_on_is_told_by_its_field(
    folders, changes, model, message, monkeypatch
):
    monkeypatch.chdir(folders[0].parent)
    fields = {"path": "images", "labels": "annotations", "preprocessing": SQUASH}
    with pytest.raises(ConfigError) as refusal:
        data.LabelMaps(**(fields | changes)).check(model)
    assert message in str(refusal.value)


@pytest.mark.parametrize(("zero_is_nothing", "kind"), [(True, "ade20k"), (False, "label_maps")])
def test_a_source_opens_itself_for_a_model(folders, zero_is_nothing, kind):
    source = data.LabelMaps(*map(str, folders), SQUASH, zero_is_nothing)
    model = Given("segmentation", 4, (8, 12, 3))
    source.check(model)
    assert source.name == f"{kind} {folders[0]} {folders[1]}"
    assert source.open(model)[0][1].max() == 3 - zero_is_nothing
