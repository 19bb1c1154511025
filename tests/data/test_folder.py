import errno
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from maskaq_jax import data
from maskaq_jax.data import preprocessing
from maskaq_jax.data.folder import open_folder
from maskaq_jax.data.preprocessing import Preprocessing
from maskaq_jax.devices import parallel
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import create_model

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


def _open(root, num_classes=2, labels=None, order="number", told=None):
    told = [] if told is None else told
    return open_folder(root, labels, num_classes, 8, Preprocessing(), order, told.append)


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
    rows = parallel.rows_of_batches(len(dataset), size, mesh)
    return list(data.read_batches(dataset, PIXELS, (8, 8, 3), rows, broken.append)), broken


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_batches_hold_every_image_once_in_order(folder, size):
    batches, broken = _batches(_open(folder), size)
    assert not broken
    labels = np.concatenate([labels[valid] for _, labels, valid in batches])
    np.testing.assert_array_equal(labels, [0, 0, 1, 1])
    for images, labels, valid in batches:
        assert images.shape == (min(size, 4), 8, 8, 3)
        greys = 100 * labels[valid, None, None, None] * np.ones(3)
        expected = PIXELS.from_bytes(greys.astype(np.uint8))
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


NUMBERS = [str(number) for number in range(12)]
# Numbers of folders, in the order of the classes.
ORDERS = {"number": list(range(12)), "name": [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]}


def _levels(dataset):
    """Of the first channel of each image, and its label."""
    return {int(image[0, 0, 0]): label for image, label in map(dataset.__getitem__, range(12))}


def _save_classes(root, names):
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / name / "0.png")


@pytest.mark.parametrize("order", ORDERS)
def test_class_folders_stand_in_the_order_that_is_asked_for(tmp_path, order):
    _save_classes(tmp_path, NUMBERS)
    expected = {folder: label for label, folder in enumerate(ORDERS[order])}
    assert _levels(_open(tmp_path, 12, order=order)) == expected


@pytest.mark.parametrize(
    "names",
    [("class_1", "class_10", "class_2"), ("01", "2", "10"), ("Zebra", "ant", "Bee", "über")],
)
def test_names_stand_as_strings_compare(tmp_path, names):
    _save_classes(tmp_path, names)
    dataset = _open(tmp_path, len(names), order="name")
    ordered = [int(dataset[label][0][0, 0, 0]) for label in range(len(names))]
    assert [names[number] for number in ordered] == sorted(names)


CLASSES = {
    "a name a line": ("classes.txt", "c\nb\na\n"),
    "names and numbers": ("classes.txt", "b 1\n\na,2\nc 0"),
    "names and words": ("synsets.txt", "c tench, Tinca tinca\nb goldfish\na great white shark"),
    "a list": ("classes.json", '["c", "b", "a"]'),
    "numbers by name": ("classes.json", '{"a": 2, "b": 1, "c": 0}'),
    "names by number": ("classes.json", '{"1": "b", "2": "a", "0": "c"}'),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_class_folders_stand_in_the_order_of_a_file(tmp_path, kind):
    name, text = CLASSES[kind]
    (tmp_path / name).write_text(text)
    _save_classes(tmp_path / "val", "abc")
    dataset = _open(tmp_path / "val", 3, tmp_path / name, "file")
    assert [int(dataset[label][0][0, 0, 0]) for label in range(3)] == [2, 1, 0]


def test_a_file_of_classes_may_have_more_of_them_than_there_are_folders(tmp_path):
    (tmp_path / "classes").write_text("a\nb\nc\nd\ne")
    _save_classes(tmp_path / "val", "db")
    dataset = _open(tmp_path / "val", 5, tmp_path / "classes", "file")
    assert [dataset[number][1] for number in range(2)] == [1, 3]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes", "a\nb", "names no class folder 'c'"),
        ("classes", "a\nb\nc\nd", "class 'd' has number 3, but the model has 3 classes"),
        ("classes", "class\na\nb\nc", "class 'c' has number 3, but the model has 3 classes"),
        ("classes", "a\nb\na\nc", "two lines name the same class"),
        ("classes", "a 0\nb 1\nc 1", "two classes have the same number"),
        ("classes.json", "{", r"classes\.json is not readable"),
        ("classes.json", "3", "expected a list of class names, or their numbers by name"),
        ("classes.json", '{"a": true}', "expected a list of class names"),
    ],
)
def test_files_of_classes_that_do_not_fit_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    _save_classes(tmp_path / "val", "abc")
    with pytest.raises(ValueError, match=message):
        _open(tmp_path / "val", 3, tmp_path / name, "file")


@pytest.mark.parametrize("ending", ["tif", "TIFF", "gif", "jfif", "ppm", "tga", "jp2", "pgm"])
def test_all_formats_that_pillow_reads_are_images(folder, ending):
    kind = {"jfif": "JPEG", "jp2": "JPEG2000", "pgm": "PPM"}.get(ending)
    picture = Image.new("L" if ending == "pgm" else "RGB", (20, 16), 200)
    picture.save(folder / "n02" / f"2.{ending}", format=kind)
    told = []
    dataset = _open(folder, told=told)
    assert [label for _, label in dataset] == [0, 0, 1, 1, 1]
    assert not told


@pytest.mark.parametrize("num_classes", [2, 0])
def test_files_that_are_passed_over_are_counted_and_named(folder, num_classes):
    for name in ("n01/2.heic", "n02/3.dcm", "n02/noending"):
        (folder / name).touch()
    told = []
    assert len(_open(folder, num_classes, told=told)) == 4
    (line,) = told
    for part in ("3 files are passed over", ".dcm, .heic, no ending", "n01/2.heic"):
        assert part in line


def test_images_beside_class_folders_are_counted_and_named(folder):
    _save(folder / "stray.png", 0)
    told = []
    assert len(_open(folder, told=told)) == 4
    assert "1 images beside the class folders are passed over" in told[0]
    assert "stray.png" in told[0]


@pytest.mark.parametrize(
    "name",
    [
        *("__MACOSX", ".ipynb_checkpoints", "lost+found", "@eaDir", "$RECYCLE.BIN", "__pycache__"),
        *("System Volume Information", "#recycle", ".Trash-1000"),
    ],
)
def test_folders_that_systems_make_are_no_classes(folder, name):
    _save(folder / name / "0.png", 200)
    _save(folder / "n01" / name / "0.png", 200)
    told = []
    assert [label for _, label in _open(folder, told=told)] == [0, 0, 1, 1]
    assert told == [f"{folder}: folders that are no classes are passed over: {name}"]


def test_a_folder_without_images_beside_all_classes_is_none(folder):
    (folder / "logs").mkdir()
    (folder / "logs" / "events.out").touch()
    told = []
    assert [label for _, label in _open(folder, told=told)] == [0, 0, 1, 1]
    assert told == [f"{folder}: folders that are no classes are passed over: logs"]


def test_a_class_of_the_model_may_have_no_images(folder):
    (folder / "n00").mkdir()
    assert [label for _, label in _open(folder, 3)] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"/annex/objects/SHA256E-s1--0.jpg\n", "a git-annex pointer"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
    ],
)
def test_what_stands_in_an_images_place_is_said(folder, content, what):
    (folder / "n01" / "0.JPEG").write_bytes(content)
    with pytest.raises(preprocessing.BrokenImageError, match=what):
        _open(folder)[0]


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize(
    "splits", [("train", "val"), ("Training", "Testing"), ("train2017", "val2017"), ("test_set",)]
)
def test_splits_of_a_dataset_are_no_classes(tmp_path, splits, num_classes):
    for split in splits:
        for name in ("cat", "dog"):
            _save(tmp_path / split / name / "0.png", 0)
    with pytest.raises(ValueError, match=rf"{splits[0]}.* are splits .*name the folder of one, as"):
        _open(tmp_path, num_classes)
    (tmp_path / "classes").write_text("cat\ndog\n")
    with pytest.raises(ValueError, match=r"names no class folder .* are splits"):
        _open(tmp_path, num_classes, tmp_path / "classes", "file")
    assert [label for _, label in _open(tmp_path / splits[-1])] == [0, 1]


def test_a_split_beside_class_folders_is_no_class(folder):
    _save(folder / "val" / "n01" / "0.png", 0)
    with pytest.raises(ValueError, match="holds val, which are splits"):
        _open(folder, 3)


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    _save_classes(tmp_path, ("car", "train"))
    assert [label for _, label in _open(tmp_path)] == [0, 1]


@pytest.mark.parametrize(
    ("names", "num_classes"),
    [
        (("0", "1", "10", "old"), 4),
        (("0", "1", "2", "unlabeled"), 4),
        (("0", "1", "2", "unlabeled"), 3),
        (("1", "2", "new folder"), 3),
    ],
)
def test_a_folder_that_is_no_number_among_numbers_shifts_no_label(tmp_path, names, num_classes):
    _save_classes(tmp_path, names)
    with pytest.raises(ValueError, match=f"and others, as {names[-1]}: move away what is no class"):
        _open(tmp_path, num_classes)


@pytest.mark.parametrize("names", [("0", "1", "3"), ("2", "3", "4"), ("0", "1", "01")])
def test_numbers_of_folders_that_are_no_labels_are_refused(tmp_path, names):
    _save_classes(tmp_path, names)
    with pytest.raises(ValueError, match="the labels of 3 classes are 0 to 2"):
        _open(tmp_path, 3)
    assert [label for _, label in _open(tmp_path, 3, order="name")] == [0, 1, 2]


def test_numbers_from_1_are_told(tmp_path):
    _save_classes(tmp_path, ("1", "2", "3"))
    told = []
    assert [label for _, label in _open(tmp_path, 3, told=told)] == [0, 1, 2]
    assert told == [f"{tmp_path}: class folders 1 to 3 have the labels 0 to 2"]


def test_folders_of_some_classes_are_told_of_the_order_of_a_file(folder):
    with pytest.raises(
        ValueError, match=r"some of the classes with config\.evaluation\.order='file'"
    ):
        _open(folder, 1000)


@pytest.mark.parametrize("listed", [["n01/0.JPEG"], ["./n01/0.JPEG"], ["n01/0.JPEG", "n02/1.JPEG"]])
def test_images_that_a_file_of_labels_leaves_out_are_counted_and_named(folder, tmp_path, listed):
    (tmp_path / "labels").write_text("".join(f"{name} 0\n" for name in listed))
    told = []
    assert len(_open(folder, labels=tmp_path / "labels", told=told)) == len(listed)
    (line,) = told
    assert f"{4 - len(listed)} images are passed over" in line
    assert "n01/1.JPEG" in line


def test_a_file_of_labels_for_all_images_passes_over_none(folder, tmp_path):
    names = [path.relative_to(folder) for path in folder.rglob("*.JPEG")]
    (tmp_path / "labels").write_text("".join(f"{name} 0\n" for name in names))
    told = []
    assert len(_open(folder, labels=tmp_path / "labels", told=told)) == 4
    assert not told


@pytest.mark.parametrize("names", [("a.heic",), ("n01/a.npy", "b.txt"), ()])
def test_files_among_real_images_that_are_passed_over_are_named(folder, names):
    for name in names:
        (folder / name).touch()
    told = []
    model = create_model("vit", 2, img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2)
    real = data.FolderReal(str(folder), 4, PIXELS, Preprocessing()).read(model, told.append)
    assert real.shape == (4, 8, 8, 3)
    assert [line.split(" files")[0] for line in told] == (
        [f"{folder}: {len(names)}"] if names else []
    )
    for name in names:
        assert name in told[0]


@pytest.mark.parametrize(("name", "text"), [("classes", "b\na"), ("classes.json", '["b", "a"]')])
def test_a_list_of_some_of_the_classes_numbers_none(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    _save_classes(tmp_path / "val", "ab")
    with pytest.raises(ValueError, match=r"lists 2 classes in their order, but the model has 1000"):
        _open(tmp_path / "val", 1000, tmp_path / name, "file")
    (tmp_path / "numbered").write_text("b 7\na 207\n")
    dataset = _open(tmp_path / "val", 1000, tmp_path / "numbered", "file")
    assert [label for _, label in dataset] == [7, 207]


@pytest.mark.parametrize("num_classes", [0, 2])
def test_a_folder_that_links_lead_back_to_is_read_once(folder, num_classes):
    before = len(_open(folder, num_classes))
    (folder / "n01" / "again").symlink_to(folder / "n01", target_is_directory=True)
    assert len(_open(folder, num_classes)) == before


def test_a_class_that_links_to_its_parent_has_no_others_images(folder):
    before = len(_open(folder))
    (folder / "n01" / "all").symlink_to(folder, target_is_directory=True)
    assert len(_open(folder)) == before


def test_images_may_lie_behind_links(folder, tmp_path, monkeypatch):
    (tmp_path / "linked").mkdir()
    for name in ("n01", "n02"):
        (tmp_path / "linked" / name).symlink_to(folder / name, target_is_directory=True)
    assert len(_open(tmp_path / "linked")) == 4
    for link in ("a", "c"):  # of one folder, twice
        (folder / "n01" / link).symlink_to(folder / "n02", target_is_directory=True)
    assert len(_open(folder)) == 8
    monkeypatch.chdir(folder.parent)
    assert len(_open(Path("val"))) == 8


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("@a", "b", "c"), "holds 2 class folders, but the model has 3 classes: .*passed over: @a"),
        (("@a", "#b", "@c"), "holds no images ending in .*; .* passed over: #b, @a, @c"),
    ],
)
def test_a_refusal_names_what_was_no_class(tmp_path, names, message):
    _save_classes(tmp_path, names)
    with pytest.raises(ValueError, match=message):
        _open(tmp_path, 3)


def test_a_file_without_labels_is_named(folder, tmp_path):
    (tmp_path / "labels").write_text("\n")
    with pytest.raises(ValueError, match="labels, which names none: it takes a line `NAME LABEL`"):
        _open(folder, labels=tmp_path / "labels")
