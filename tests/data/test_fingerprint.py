"""What tells images of files from others in their place."""

import json
import shutil

import pytest
from PIL import Image

from maskaq_jax import data
from maskaq_jax.data.coco import open_coco
from maskaq_jax.data.folder import open_folder
from maskaq_jax.data.label_maps import open_label_maps
from maskaq_jax.data.preprocessing import Preprocessing
from maskaq_jax.images.pixels import Pixels
from maskaq_jax.models import create_model

WHOLE = Preprocessing(resize="squash", crop_ratio=1.0)


def _classes(root):
    return open_folder(root / "images", None, 2, 8, WHOLE)


def _real(root):
    return data.FolderReal(str(root / "images"), 2, Pixels(), WHOLE)


def _boxes(root):
    return open_coco(root / "images", root / "boxes.json", 1, (8, 8), WHOLE)


def _maps(root):
    return open_label_maps(root / "images", root / "maps", 2, (8, 8), WHOLE, False)


def _write(root):
    for name in ("a", "b"):
        for folder, mode in (("images", "RGB"), ("maps", "L")):
            (root / folder / name).mkdir(parents=True)
            Image.new(mode, (8, 8)).save(root / folder / name / f"{name}.png")
    images = [
        {"id": i, "file_name": f"{name}/{name}.png", "height": 8, "width": 8}
        for i, name in enumerate("ab")
    ]
    box = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    labels = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}
    (root / "boxes.json").write_text(json.dumps(labels))


def _rename(root):
    (root / "images" / "a" / "a.png").rename(root / "images" / "a" / "other.png")


def _replace(root):
    for folder, mode in (("images", "RGB"), ("maps", "L")):
        Image.new(mode, (8, 8), 255).resize((90, 90)).save(root / folder / "a" / "a.png")


def _relabel(root):
    path = root / "boxes.json"
    path.write_text(path.read_text().replace("[1, 1, 4, 4]", "[1, 1, 4, 5]"))


@pytest.mark.parametrize(
    ("make", "change"),
    [
        *[(_classes, _rename), (_classes, _replace), (_real, _rename), (_real, _replace)],
        *[(_boxes, _replace), (_boxes, _relabel), (_maps, _replace)],
    ],
)
def test_other_files_or_labels_have_another_fingerprint(tmp_path, make, change):
    _write(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    before = data.fingerprint(make(tmp_path / "one"))
    assert before == data.fingerprint(make(tmp_path / "moved"))
    change(tmp_path / "moved")
    assert before != data.fingerprint(make(tmp_path / "moved"))


def test_what_ships_with_the_package_has_none():
    model = create_model("vit", 10, img_size=28, patch_size=4)
    assert data.fingerprint(data.Embedded("validation").open(model)) is None
