import errno
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from maskaq_jax import data, image_folder, parallel, preprocessing
from maskaq_jax.pixels import Pixels
from maskaq_jax.preprocessing import Preprocessing

PIXELS = Pixels()


def _save(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), (level, level, level)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes of two images, the level 10 times the label."""
    for label, name in enumerate(("n01", "n02")):
        for number in range(2):
            _save(tmp_path / "val" / name / f"{number}.JPEG", 100 * label)
    return tmp_path / "val"


def _open(root, num_classes=2, labels=None):
    return image_folder.open_folder(root, labels, num_classes, 8, Preprocessing())


def test_folders_are_classes_in_the_order_of_their_names(folder):
    dataset = _open(folder)
    assert [label for _, label in dataset] == [0, 0, 1, 1]
    image, _ = dataset[3]
    assert image.shape == (8, 8, 3)
    assert abs(int(image.mean()) - 100) <= 1


def test_a_file_of_labels_names_images_anywhere_below(folder, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("n02/1.JPEG 4\nn01/0.JPEG,2\n\n")
    dataset = _open(folder, 5, labels)
    (first, first_label), (second, second_label) = dataset
    assert (first_label, second_label) == (4, 2)
    assert first.mean() > second.mean()


def test_a_flat_folder_is_labelled_as_imagenets(tmp_path):
    for number in (1, 2):
        _save(tmp_path / "val" / f"ILSVRC2012_val_{number:08d}.JPEG", 100 * number)
    labels = tmp_path / "labels.txt"
    labels.write_text("ILSVRC2012_val_00000001.JPEG 65\nILSVRC2012_val_00000002.JPEG 970\n")
    (first, first_label), (second, second_label) = _open(tmp_path / "val", 1000, labels)
    assert (first_label, second_label) == (65, 970)
    assert first.mean() < second.mean()


def test_names_may_hold_commas_and_spaces(folder, tmp_path):
    names = ("a,b.png", "a b.png", "a, b.png")
    for name in names:
        shutil.copy(folder / "n01" / "0.JPEG", folder / name)
    labels = tmp_path / "labels.txt"
    labels.write_text("a,b.png 1\na b.png,2\na, b.png , 3,\n")
    assert [label for _, label in _open(folder, 5, labels)] == [1, 2, 3]


def test_a_model_without_classes_needs_no_labels(folder):
    dataset = _open(folder, num_classes=0)
    assert [label for _, label in dataset] == [-1] * 4


def _batches(dataset, size):
    broken = []
    mesh = parallel.make_mesh(jax.devices()[:1])
    shares = parallel.share_batches(len(dataset), size, mesh)
    return list(data.batches(dataset, PIXELS, (8, 8, 3), shares, broken.append)), broken


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_batches_hold_every_image_once_in_order(folder, size):
    batches, broken = _batches(_open(folder), size)
    assert not broken
    labels = np.concatenate([labels[valid] for _, labels, valid in batches])
    np.testing.assert_array_equal(labels, [0, 0, 1, 1])
    for images, labels, valid in batches:
        assert images.shape == (min(size, 4), 8, 8, 3)
        expected = PIXELS.from_bytes(100 * labels[valid, None, None, None] * np.ones(3))
        np.testing.assert_allclose(
            images[valid], np.broadcast_to(expected, images[valid].shape), atol=0.03
        )


def test_a_broken_image_is_named_and_not_counted(folder):
    (folder / "n01" / "0.JPEG").write_bytes(b"no picture")
    (folder / "n02" / "1.JPEG").write_bytes((folder / "n02" / "0.JPEG").read_bytes()[:200])
    batches, broken = _batches(_open(folder), 3)
    assert [valid.tolist() for _, _, valid in batches] == [[False, True, True], [False] * 3]
    assert batches[0][1].tolist() == [0, 0, 1]
    assert [message.split(":")[0] for message in broken] == [
        str(folder / name) for name in ("n01/0.JPEG", "n02/1.JPEG")
    ]


@pytest.mark.parametrize("num_classes", [2, 0])
def test_hidden_names_are_neither_classes_nor_images(folder, num_classes):
    _save(folder / ".ipynb_checkpoints" / "0-checkpoint.JPEG", 200)
    _save(folder / "n01" / ".ipynb_checkpoints" / "0-checkpoint.JPEG", 200)
    _save(folder / "n01" / "hidden.JPEG", 200)
    (folder / "n01" / "hidden.JPEG").rename(folder / "n01" / "._0.JPEG")
    labels = [label for _, label in _open(folder, num_classes)]
    assert labels == ([0, 0, 1, 1] if num_classes else [-1] * 4)


@pytest.mark.parametrize("num_classes", [2, 0])
def test_links_to_folders_are_followed(folder, num_classes, tmp_path):
    _save(tmp_path / "elsewhere" / "2.JPEG", 200)
    (folder / "n01" / "more").symlink_to(tmp_path / "elsewhere")
    assert len(_open(folder, num_classes)) == 5


def test_a_folder_that_cannot_be_listed_is_not_left_out(folder, monkeypatch):
    scandir = os.scandir

    def fail(path):
        if os.fspath(path).endswith("n02"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(PermissionError, match=r"Permission denied: .*n02"):
        _open(folder, num_classes=0)


def test_a_folder_of_other_classes_is_refused(folder):
    with pytest.raises(ValueError, match="2 class folders, but the model has 1000 classes"):
        _open(folder, 1000)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "n01").mkdir()
    (tmp_path / "n01" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds no images ending in \.jpeg"):
        _open(tmp_path, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01/0.JPEG 2", r"line 1: expected an image's name and a label from 0 to 1"),
        ("n01/0.JPEG one", r"line 1: expected an image's name"),
        ("n01/0.JPEG 0\n7", r"line 2: expected an image's name"),
        ("n01/0.JPEG 0\n , ,", r"line 2: expected an image's name"),
        ("n01/9.JPEG 0", r"line 1: no image .*9\.JPEG"),
        ("n01/0.JPEG 0\nn01/0.JPEG 1", r"line 2: n01/0\.JPEG has another label above"),
        ("notes.txt 0", r"line 1: no image .*notes\.txt"),
        ("", "holds no images"),
    ],
)
def test_labels_that_do_not_fit_are_told_with_their_line(folder, tmp_path, text, message):
    (folder / "notes.txt").touch()
    labels = tmp_path / "labels.txt"
    labels.write_text(text)
    with pytest.raises(ValueError, match=message):
        _open(folder, 2, labels)


@pytest.mark.parametrize("gap", [" ", "\t", ",", ", "])
def test_labels_stand_behind_any_gap(folder, tmp_path, gap):
    labels = tmp_path / "labels.txt"
    labels.write_text(f"n01/0.JPEG{gap}1\nn01/0.JPEG{gap}1\nn02/0.JPEG{gap}0\n")
    dataset = _open(folder, 2, labels)
    assert [dataset[i][1] for i in range(len(dataset))] == [1, 0]


def test_a_byte_order_mark_is_no_part_of_a_name(folder, tmp_path):
    (tmp_path / "labels").write_text("n01/0.JPEG 1", encoding="utf-8-sig")
    assert [label for _, label in _open(folder, labels=tmp_path / "labels")] == [1]


def test_labels_need_classes(folder, tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("n01/0.JPEG 0")
    with pytest.raises(ValueError, match="a model without classifier has no use for labels"):
        _open(folder, 0, labels)


def test_folders_named_by_numbers_stand_in_their_order(tmp_path):
    for number in range(12):
        (tmp_path / str(number)).mkdir()
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / str(number) / "0.png")
    dataset = _open(tmp_path, 12)
    assert [dataset[i][0][0, 0, 0] for i in range(12)] == list(range(12))


def test_an_image_that_promises_too_many_pixels_is_broken(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(preprocessing.BrokenImageError, match=r"0\.JPEG: .*decompression bomb"):
        _open(folder)[0]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*gone"):
        _open(tmp_path / "gone")
