from types import SimpleNamespace

import jax
import numpy as np
import pytest

from maskaq_jax import batches, parallel, phases, samples, synthesis


@pytest.fixture
def share():
    return parallel.share_batch(0, 4, parallel.make_mesh(jax.devices()[:1]))


@pytest.fixture
def path(tmp_path, share):
    """Where a batch stood after 20 steps of its second attempt."""
    images = np.arange(4.0, dtype=np.float32).reshape(4, 1, 1, 1)
    state = synthesis.State(np.int32(20), images, ())
    progress = phases.SynthesisProgress(1, 20, np.zeros(4, np.int32), state, {})
    batches.write_progress(tmp_path / "unfinished.safetensors", share, progress)
    return tmp_path / "unfinished.safetensors"


def test_a_batch_is_found_where_it_stood(path, share):
    attempt, step, (number, images) = batches.read_progress(path, share, pytest.fail)
    assert (attempt, step, int(number)) == (1, 20, 20)
    assert images.ravel().tolist() == [0, 1, 2, 3]


def test_a_damaged_batch_is_told_and_begun_anew(path, share):
    path.write_bytes(path.read_bytes()[:-1])
    told = []
    assert batches.read_progress(path, share, told.append) is None
    assert len(told) == 1
    assert "its images are made from the start" in told[0]


def test_what_another_number_of_hosts_left_is_begun_anew(path, share):
    other = share._replace(indices=share.indices[:2])
    assert batches.read_progress(path, other, pytest.fail) is None


def test_a_batch_that_never_began_stands_nowhere(tmp_path, share):
    assert batches.read_progress(tmp_path / "gone.safetensors", share, pytest.fail) is None


def _config(num_samples, batch_size, method="maskaq"):
    samples = SimpleNamespace(num_samples=num_samples, batch_size=batch_size)
    return SimpleNamespace(samples=samples, method=method)


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "number", "size"),
    [(12, 4, 3, 4), (13, 4, 4, 4), (3, 4, 1, 3)],
)
def test_batches_hold_all_samples_and_no_more_than_there_are(num_samples, batch_size, number, size):
    config = _config(num_samples, batch_size)
    assert batches.num_batches(config) == number
    assert batches.batch_size(config) == size


def _finished(share, value):
    """A batch whose images have a value, and the number of the image as their label."""
    count = len(share.indices)
    images = np.full((count, 1, 1, 1), value, np.float32)
    state = synthesis.State(np.int32(30), images, ())
    return phases.SynthesisProgress(2, 30, share.indices.astype(np.int32), state, {})


def test_a_batch_is_written_without_its_padding_in_the_place_of_what_was_there(tmp_path):
    share = parallel.share_batch(4, 10, parallel.make_mesh(jax.devices()[:4]))
    assert share.is_padded
    other = samples.shard_path(tmp_path, 0, 4)
    samples.write_arrays(other, {"images": np.zeros((4, 1, 1, 1), np.float32)})
    for value in (1.0, 2.0):
        batches.write_batch(tmp_path, share, _finished(share, value))
    before, (first, stop, path) = samples.list_shards(tmp_path)
    assert (before.path, first, stop) == (other, 4, 10)
    arrays = samples.read_arrays(path)
    assert arrays["images"].ravel().tolist() == [2.0] * 6
    assert arrays["labels"].tolist() == list(range(4, 10))
    assert arrays["redraws"].tolist() == [2] * 6


def test_batches_that_are_not_whole_are_missing(tmp_path):
    config, told = _config(10, 4), []
    folder = samples.refresh_folder(tmp_path, 1)
    for number in (0, 2):
        share = parallel.share_batch(
            4 * number, 4 * number + 4, parallel.make_mesh(jax.devices()[:1])
        )
        batches.write_batch(folder, share, _finished(share, 1.0))
    assert batches.find_missing(config, tmp_path, 1, told.append) == [1]
    assert batches.find_missing(config, tmp_path, 0, told.append) == [0, 1, 2]
    assert batches.find_missing(_config(10, 4, "noise"), tmp_path, 0, told.append) == []
    assert told == []
    (shard, _) = samples.list_shards(folder)
    shard.path.write_bytes(b"")
    assert batches.find_missing(config, tmp_path, 1, told.append) == [0, 1]
    assert len(told) == 1


def test_redrawn_images_are_counted_in_files_that_can_be_read(tmp_path):
    for number, redraws in enumerate(([0, 1], [2, 2], [1, 1])):
        folder = samples.refresh_folder(tmp_path, number)
        path = samples.shard_path(folder, 0, 2)
        samples.write_arrays(path, {"redraws": np.asarray(redraws, np.int32)})
    path.write_bytes(b"")
    assert batches.count_redrawn(tmp_path) == 3
