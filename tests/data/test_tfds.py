import io
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from maskaq_jax import data
from maskaq_jax.data.preprocessing import Preprocessing
from maskaq_jax.data.tfds import open_split
from maskaq_jax.devices import parallel
from maskaq_jax.images.pixels import Pixels
from tests.dense import Given

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def _png(level):
    file = io.BytesIO()
    Image.new("RGB", (20, 16), (level,) * 3).save(file, "PNG")
    return io.BytesIO(file.getvalue())


class MaskaqToy(tfds.core.GeneratorBasedBuilder):
    """Five images of two classes, the second of them broken; the same to test on, unlabelled."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, manager):
        return {
            "validation": self._generate_examples(is_labelled=True),
            "test": self._generate_examples(is_labelled=False),
        }

    def _generate_examples(self, is_labelled):
        for number in range(5):
            image = io.BytesIO(b"no picture") if number == 1 else _png(50 * number)
            yield number, {"image": image, "label": number % 2 if is_labelled else -1}


class MaskaqUnlabelled(MaskaqToy):
    """Images without labels."""

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image()})
        return tfds.core.DatasetInfo(builder=self, features=features)


class MaskaqPlaces(tfds.core.GeneratorBasedBuilder):
    """Two pictures of 20 x 16 pixels with their boxes and label maps."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        objects = {
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="png"),
                    "objects": tfds.features.Sequence(objects),
                    "annotation": tfds.features.Image(encoding_format="png"),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, manager):
        return {"validation": self._generate_examples()}

    def _generate_examples(self):
        box = tfds.features.BBox(ymin=0.25, xmin=0.5, ymax=0.75, xmax=1.0)
        for number in range(2):
            labels = io.BytesIO()
            Image.new("L", (20, 16), number).save(labels, "PNG")
            objects = [{"bbox": box, "label": 1}] * number
            picture = {"image": _png(50 * number), "annotation": io.BytesIO(labels.getvalue())}
            yield number, picture | {"objects": objects}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for kind in (MaskaqToy, MaskaqPlaces):
        kind(data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


def _open(data_dir, dataset="maskaq_toy", split="validation", num_classes=2):
    return open_split(dataset, split, data_dir, num_classes, 8, Preprocessing())


@pytest.mark.parametrize("num_classes", [2, 0])
def test_images_and_labels_are_those_that_were_prepared(prepared, num_classes):
    dataset = _open(prepared, num_classes=num_classes)
    assert len(dataset) == 5
    for number in (4, 2, 0, 3):
        image, label = dataset[number]
        assert image.shape == (8, 8, 3)
        assert (image == 50 * number).all()
        assert label == number % 2


def test_a_model_without_classes_needs_no_labels(prepared):
    assert len(_open(prepared, split="test", num_classes=0)) == 5


def test_a_slice_of_a_split_is_a_split(prepared):
    image, label = _open(prepared, split="validation[3:]")[0]
    assert (image == 150).all()
    assert label == 1


def test_a_broken_image_is_named_and_not_counted(prepared):
    broken = []
    rows = parallel.rows_of_batches(5, 3, parallel.make_mesh(jax.devices()[:1]))
    shape = _open(prepared)[0][0].shape
    batches = list(data.read_batches(_open(prepared), Pixels(), shape, rows, broken.append))
    assert sum(valid.sum() for _, _, valid in batches) == 4
    assert broken[0].startswith("maskaq_toy validation, image 1: cannot identify image")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "imagenet2021"}, "TFDS has no 'imagenet2021': did you mean"),
        ({"split": "train"}, "'maskaq_toy': Unknown split 'train'"),
        ({"split": "test"}, "'maskaq_toy' has no labels in its split 'test'"),
        ({"num_classes": 1000}, "'maskaq_toy' has 2 classes, but the model has 1000"),
        ({"dataset": "maskaq_unlabelled"}, "'maskaq_unlabelled' has no labels"),
        (
            {"data_dir": "gone"},
            "not prepared in gone: .*'maskaq_toy', file_format='array_record', data_dir='gone'",
        ),
        ({"split": "validation+test"}, "no labels in its split 'validation\\+test'"),
    ],
)
def test_what_cannot_be_evaluated_on_is_told(prepared, arguments, message):
    with pytest.raises(ValueError, match=message):
        _open(**{"data_dir": prepared} | arguments)


def test_boxes_are_those_that_were_prepared(prepared):
    model, settings = Given("detection", 2), Preprocessing(1.0, "bilinear", "squash")
    source = data.Tfds("maskaq_places", "validation", prepared, settings)
    source.check(model)
    dataset = source.open(model)
    image, number = dataset[1]
    assert image.shape == (8, 8, 3)
    assert number == 1
    boxes = dataset.boxes(1)
    assert boxes.corners.tolist() == [[10, 4, 20, 12]]
    assert (boxes.classes.tolist(), boxes.areas.tolist()) == ([1], [80])
    assert boxes.is_crowd.tolist() == [False]
    assert dataset.placement(1).boxes_on_canvas(boxes.corners).tolist() == [[4, 2, 8, 6]]
    assert dataset.boxes(0).corners.shape == (0, 4)
    assert dataset.class_names == ("cat", "dog")


def test_label_maps_are_those_that_were_prepared(prepared):
    source = data.Tfds("maskaq_places", "validation", prepared, Preprocessing())
    dataset = source.open(Given("segmentation", 1))
    labels = [dataset[number][1] for number in range(2)]
    assert [label_map.shape for label_map in labels] == [(8, 8)] * 2
    assert [label_map.max() for label_map in labels] == [-1, 0]  # 0 is nothing
    assert dataset.class_names == ("0",)


@pytest.mark.parametrize(
    ("dataset", "model", "message"),
    [
        ("maskaq_places", Given("detection", 91), "has 2 classes, but the model has 91"),
        ("maskaq_toy", Given("detection", 2), "has no objects to evaluate a detector on"),
        ("maskaq_toy", Given("segmentation", 2), "has no annotations to evaluate a segmenter on"),
        ("maskaq_places", Given("segmentation", 0), "image 1 holds 1, but the model has 0 classes"),
        ("maskaq_places", Given("classification", 2), "has no labels to evaluate a classifier on"),
    ],
)
def test_a_task_that_a_dataset_is_not_for_is_told(prepared, dataset, model, message):
    source = data.Tfds(dataset, "validation", prepared, Preprocessing())
    with pytest.raises(ValueError, match=message):
        source.open(model)


def test_datasets_prepared_for_tensorflow_are_told(tmp_path):
    MaskaqToy(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    info = tmp_path / "maskaq_toy" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match=r"not as ArrayRecord: .* file_format='array_record'"):
        _open(str(tmp_path))


def test_reading_imports_no_tensorflow(prepared):
    code = (
        "import sys; from tests.data.test_tfds import _open; _open(sys.argv[1])[0]; "
        "assert 'tensorflow' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, prepared], check=True, cwd=root)
