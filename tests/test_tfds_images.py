import io
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from maskaq_jax import data, parallel, tfds_images
from maskaq_jax.pixels import Pixels
from maskaq_jax.preprocessing import Preprocessing

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


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    MaskaqToy(data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


def _open(data_dir, dataset="maskaq_toy", split="validation", num_classes=2):
    return tfds_images.open_split(dataset, split, data_dir, num_classes, 8, Preprocessing())


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
    shares = parallel.share_batches(5, 3, parallel.make_mesh(jax.devices()[:1]))
    shape = _open(prepared)[0][0].shape
    batches = list(data.batches(_open(prepared), Pixels(), shape, shares, broken.append))
    assert sum(valid.sum() for _, _, valid in batches) == 4
    assert broken[0].startswith("maskaq_toy validation, image 1: cannot identify image")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "imagenet2021"}, "TFDS knows no dataset 'imagenet2021'"),
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


def test_datasets_prepared_for_tensorflow_are_told(tmp_path):
    MaskaqToy(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    info = tmp_path / "maskaq_toy" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match=r"not as ArrayRecord: .* file_format='array_record'"):
        _open(str(tmp_path))


def test_reading_imports_no_tensorflow(prepared):
    code = (
        "import sys; from tests.test_tfds_images import _open; _open(sys.argv[1])[0]; "
        "assert 'tensorflow' not in sys.modules"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, prepared], check=True, cwd=root)
