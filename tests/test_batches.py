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


def test_redrawn_images_are_counted_in_files_that_can_be_read(tmp_path):
    for number, redraws in enumerate(([0, 1], [2, 2], [1, 1])):
        folder = samples.refresh_folder(tmp_path, number)
        path = samples.shard_path(folder, 0, 2)
        samples.write_arrays(path, {"redraws": np.asarray(redraws, np.int32)})
    path.write_bytes(b"")
    assert batches.count_redrawn(tmp_path) == 3
