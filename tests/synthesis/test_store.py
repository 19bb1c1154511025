import jax
import numpy as np
import optax
import pytest

from maskaq_jax.devices import parallel
from maskaq_jax.storage import checked_arrays
from maskaq_jax.synthesis import loop as synthesis_loop
from maskaq_jax.synthesis.step import SynthesisState
from maskaq_jax.synthesis.store import (
    Store,
    list_refreshes,
    list_shards,
    refresh_folder,
    shard_path,
)
from tests import tiny

ONE_DEVICE = parallel.make_mesh(jax.devices()[:1])


@pytest.fixture
def root(tmp_path):
    """Images 0 to 9 of refresh 2, in files of 3, 3 and 4; image i is full of i."""
    for first, stop in ((0, 3), (3, 6), (6, 10)):
        numbers = np.arange(first, stop, dtype=np.float32)[:, None, None, None]
        arrays = {"images": np.ones((stop - first, 2, 2, 3), np.float32) * numbers}
        checked_arrays.write_arrays(shard_path(refresh_folder(tmp_path, 2), first, stop), arrays)
    return tmp_path


def _store(root, num_batches, batch_size, warn=pytest.fail):
    return Store(root, num_batches, batch_size, warn)


def test_images_are_read_by_number_from_whichever_file_has_them(root):
    indices = np.asarray([9, 0, 5, 6, 0])
    images = _store(root, 2, 5).read(2)(indices)
    assert images.shape == (5, 2, 2, 3)
    np.testing.assert_array_equal(images[:, 0, 0, 0], indices)


def test_batches_without_all_of_their_images_are_missing(root):
    assert _store(root, 2, 5).missing(2) == []
    shard_path(refresh_folder(root, 2), 3, 6).unlink()
    assert _store(root, 5, 2).missing(2) == [1, 2]


def test_a_damaged_file_is_told_and_its_images_are_missing(root):
    tiny.flip_last_bit(shard_path(refresh_folder(root, 2), 6, 10))
    told = []
    store = _store(root, 2, 5, told.append)
    # A refresh's files are read once, however often it is asked for.
    assert [store.missing(2), store.missing(2)] == [[1], [1]]
    (message,) = told
    assert "images_00000006_00000010" in message


def test_what_is_not_there_yet_is_missing(tmp_path):
    assert _store(tmp_path / "none", 3, 4).missing(0) == [0, 1, 2]


def test_refreshes_have_folders_of_their_own_in_order(tmp_path):
    folders = [refresh_folder(tmp_path, refresh) for refresh in range(12)]
    for folder in folders:
        folder.mkdir()
    assert list_refreshes(tmp_path) == folders


def _finished(rows, value, attempt=2):
    """A batch whose images have a value, and the number of the image as their label."""
    images = np.full((len(rows.indices), 1, 1, 1), value, np.float32)
    state = SynthesisState(np.int32(30), images, ())
    return synthesis_loop.BatchProgress(attempt, 30, rows.indices.astype(np.int32), state, {})


def test_a_batch_is_written_without_its_padding_in_the_place_of_what_was_there(tmp_path):
    store = _store(tmp_path, 2, 6)
    rows = store.rows(1, parallel.make_mesh(jax.devices()[:4]))
    assert rows.is_padded
    # One file ends inside the batch, another lies outside.
    for first, stop in ((0, 2), (2, 8)):
        other = shard_path(store.folder(0), first, stop)
        checked_arrays.write_arrays(other, {"images": np.zeros((stop - first, 1, 1, 1))})
    assert store.missing(0) == [1]
    for value in (1.0, 2.0):
        store.write(0, rows, _finished(rows, value))
    kept, (first, stop, path) = list_shards(store.folder(0))
    assert (kept.first, kept.stop, first, stop) == (0, 2, 6, 12)
    arrays = checked_arrays.read_arrays(path)
    assert arrays["images"].ravel().tolist() == [2.0] * 6
    assert arrays["labels"].tolist() == list(range(6, 12))
    assert arrays["redraws"].tolist() == [2] * 6
    # The file that was removed had images of the other batch.
    assert store.missing(0) == [0]


def test_redrawn_images_are_counted_in_files_that_can_be_read(tmp_path):
    for number, redraws in enumerate(([0, 1], [2, 2], [1, 1])):
        path = shard_path(refresh_folder(tmp_path, number), 0, 2)
        checked_arrays.write_arrays(path, {"redraws": np.asarray(redraws, np.int32)})
    path.write_bytes(b"")
    assert _store(tmp_path, 1, 2).count_redrawn() == 3


@pytest.fixture
def state():
    """After 20 steps of a batch of four images."""
    images = np.arange(4.0, dtype=np.float32).reshape(4, 1, 1, 1)
    opt_state = optax.adamw(0.1).init(images)
    return SynthesisState(np.int32(20), images, jax.tree.map(np.asarray, opt_state))


@pytest.fixture
def rows():
    return parallel.rows_of_batch(0, 4, ONE_DEVICE)


@pytest.fixture
def unfinished(tmp_path, rows, state):
    """Where its file is."""
    labels = np.zeros(4, np.int32)
    progress = synthesis_loop.BatchProgress(1, 20, labels, state, {})
    _store(tmp_path, 1, 4).write_progress(0, rows, progress)
    (path,) = refresh_folder(tmp_path, 0).glob("unfinished_*")
    return path


def test_a_batch_is_found_where_it_stood(tmp_path, unfinished, rows, state):
    attempt, step, found = _store(tmp_path, 1, 4).read_progress(0, rows, state)
    assert (attempt, step) == (1, 20)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, found, state)


def test_what_is_kept_of_a_batch_has_names(unfinished):
    names = checked_arrays.read_arrays(unfinished)
    assert {"state/step", "state/images", "state/opt_state/0/mu", "position"} <= names.keys()


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _name_otherwise(path):
    """As main did before the arrays had names."""
    arrays = checked_arrays.read_arrays(path)
    leaves = {f"leaf_{i:03d}": array for i, array in enumerate(arrays.values())}
    kept = {name: arrays[name] for name in ("indices", "position")}
    checked_arrays.write_arrays(path, leaves | kept)


@pytest.mark.parametrize("damage", [_cut, _name_otherwise])
def test_a_batch_that_can_not_be_read_is_told_and_begun_anew(
    tmp_path, unfinished, rows, state, damage
):
    damage(unfinished)
    told = []
    assert _store(tmp_path, 1, 4, told.append).read_progress(0, rows, state) is None
    (message,) = told
    assert "its images are made from the start" in message


def test_what_another_number_of_hosts_left_is_begun_anew(tmp_path, unfinished, rows, state):
    other = rows._replace(indices=rows.indices[:2])
    assert _store(tmp_path, 1, 4).read_progress(0, other, state) is None


def test_a_batch_that_never_began_stands_nowhere(tmp_path, rows, state):
    assert _store(tmp_path, 1, 4).read_progress(0, rows, state) is None


def test_a_finished_batch_leaves_nothing_unfinished(tmp_path, unfinished, rows):
    store = _store(tmp_path, 1, 4)
    store.write(0, rows, _finished(rows, 1.0))
    assert not unfinished.exists()
    assert store.missing(0) == []
