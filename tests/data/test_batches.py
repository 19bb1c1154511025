import threading

import jax
import numpy as np
import pytest

from maskaq_jax import data
from maskaq_jax.data.preprocessing import BrokenImageError
from maskaq_jax.devices import parallel
from maskaq_jax.images.pixels import Pixels

ONE_DEVICE = parallel.make_mesh(jax.devices()[:1])
IMAGE = np.zeros((2, 2, 3), np.uint8)
PIXELS = Pixels(mean=(0.5, 0.25), std=(0.5, 0.125))


@pytest.mark.parametrize(
    ("split", "count"), [("test", 10_000), ("validation", 5_000), ("real", 1_024)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_embedded_images_have_the_models_channels(split, count, channels):
    images, labels = data.load_embedded(split, channels)
    assert images.shape == (count, 28, 28, channels)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert set(labels) == set(range(10))
    assert (images == images[..., :1]).all()


def test_the_test_split_has_as_many_of_each_class():
    assert (np.bincount(data.load_embedded("test", 1)[1]) == 1_000).all()


def test_splits_share_no_image():
    splits = [
        {image.tobytes() for image in data.load_embedded(split, 1)[0]}
        for split in ("test", "validation", "real")
    ]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not splits[first] & splits[second]


def test_a_dataset_is_readable_where_one_image_is():
    class Dataset(list):
        def __getitem__(self, index):
            if super().__getitem__(index) is None:
                raise BrokenImageError(f"image {index} is broken")
            return super().__getitem__(index)

    data.check_readable(Dataset([None, (IMAGE, 0), None]))
    with pytest.raises(OSError, match="no evaluation image can be read: image 0 is broken"):
        data.check_readable(Dataset([None, None]))
    with pytest.raises(OSError, match="no evaluation images"):
        data.check_readable(Dataset())


def test_the_last_batch_is_padded_and_says_where():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 2), np.uint8)
    dataset = list(zip(images, range(5), strict=True))
    rows = parallel.rows_of_batches(5, 3, ONE_DEVICE)
    (_, first, all_valid), (last, labels, valid) = data.read_batches(
        dataset, PIXELS, (2, 2, 2), rows
    )
    np.testing.assert_array_equal(first, [0, 1, 2])
    assert all_valid.all()
    np.testing.assert_array_equal(labels[valid], [3, 4])
    np.testing.assert_array_equal(valid, [True, True, False])
    np.testing.assert_array_equal(last[:2], PIXELS.from_bytes(images[3:]))
    assert last.shape == (3, 2, 2, 2)


def test_a_host_reads_its_rows_alone():
    read = []

    class Dataset(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    dataset = Dataset([(np.full((2, 2, 2), 9, np.uint8), label) for label in range(6)])
    # The second of two hosts, whose rows are half of each batch; the last batch is padded.
    rows = [
        parallel.HostRows(0, 4, np.asarray([2, 3]), np.asarray([True, True]), False),
        parallel.HostRows(4, 8, np.asarray([5, 5]), np.asarray([False, False]), True),
    ]
    batches = list(data.read_batches(dataset, PIXELS, (2, 2, 2), rows))
    assert sorted(read) == [2, 3]
    assert [labels[valid].tolist() for _, labels, valid in batches] == [[2, 3], []]


class _Waiting(list):
    """Four examples, of which one is read as soon as `wait(index)` returns."""

    def __init__(self, wait):
        super().__init__((np.zeros((2, 2, 2), np.uint8), label) for label in range(4))
        self.wait = wait

    def __getitem__(self, index):
        self.wait(index)
        return super().__getitem__(index)


def test_examples_are_read_side_by_side():
    both = threading.Barrier(2, timeout=30)
    rows = parallel.rows_of_batches(4, 4, ONE_DEVICE)
    dataset = _Waiting(lambda index: both.wait())
    ((_, labels, valid),) = data.read_batches(dataset, PIXELS, (2, 2, 2), rows)
    assert labels[valid].tolist() == [0, 1, 2, 3]


def test_a_later_batch_is_read_before_the_first_is_done_with():
    is_later_asked_for = threading.Event()
    dataset = _Waiting(lambda index: is_later_asked_for.set() if index >= 2 else None)
    rows = parallel.rows_of_batches(4, 2, ONE_DEVICE)
    batches = data.read_batches(dataset, PIXELS, (2, 2, 2), rows)
    _, labels, _ = next(batches)
    assert labels.tolist() == [0, 1]
    assert is_later_asked_for.wait(timeout=30)
