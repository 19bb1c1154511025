import pathlib

import numpy as np
import pytest

from maskaq_jax import samples
from tests import tiny


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 4, 4, 3)).astype(np.float32)
    return {"images": images, "labels": np.arange(3, dtype=np.int32), "step": np.int32(7)}


@pytest.fixture
def folder(tmp_path):
    """Images 0 to 9 in files of 3, 3 and 4; image i is full of i."""
    for first, stop in ((0, 3), (3, 6), (6, 10)):
        _write(tmp_path, first, stop)
    return tmp_path


def _write(folder, first, stop):
    images = (
        np.ones((stop - first, 2, 2, 3), np.float32) * np.arange(first, stop)[:, None, None, None]
    )
    samples.write_arrays(
        samples.shard_path(folder, first, stop), {"images": images.astype(np.float32)}
    )


def test_a_batch_is_read_as_it_was_written(tmp_path, batch):
    samples.write_arrays(tmp_path / "batch", batch)
    read = samples.read_arrays(tmp_path / "batch")
    assert read.keys() == batch.keys()
    for name, expected in batch.items():
        np.testing.assert_array_equal(read[name], expected)
        assert (read[name].dtype, read[name].shape) == (expected.dtype, expected.shape)


def test_a_view_of_other_memory_is_stored_as_it_looks(tmp_path, batch):
    turned = batch["images"][::-1].transpose(0, 2, 1, 3)
    samples.write_arrays(tmp_path / "batch", {"images": turned})
    np.testing.assert_array_equal(samples.read_arrays(tmp_path / "batch")["images"], turned)


def test_a_batch_that_cannot_be_written_leaves_the_one_before(tmp_path, batch, monkeypatch):
    path = tmp_path / "shard.safetensors"
    samples.write_arrays(path, batch)

    def fail(unfinished, content):
        with unfinished.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(pathlib.Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        samples.write_arrays(path, {"images": batch["images"] + 1})
    np.testing.assert_array_equal(samples.read_arrays(path)["images"], batch["images"])


def test_who_may_read_other_files_may_read_a_batch(tmp_path, batch):
    (tmp_path / "text").write_text("")
    samples.write_arrays(tmp_path / "shard.safetensors", batch)
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize(
    "damage", [tiny.flip_last_bit, lambda path: path.write_bytes(path.read_bytes()[:-9])]
)
def test_a_damaged_file_is_named(tmp_path, batch, damage):
    path = tmp_path / "shard.safetensors"
    samples.write_arrays(path, batch)
    damage(path)
    with pytest.raises(samples.BrokenFileError, match=r"shard\.safetensors"):
        samples.read_arrays(path)


def test_any_changed_byte_of_the_content_is_noticed(tmp_path, batch):
    path = tmp_path / "shard.safetensors"
    samples.write_arrays(path, batch)
    whole = path.read_bytes()
    for place in range(len(whole) - 40, len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x10
        path.write_bytes(bytes(changed))
        with pytest.raises(samples.BrokenFileError):
            samples.read_arrays(path)


def test_images_are_read_by_number_from_whichever_file_has_them(folder):
    read = samples.open_images(folder)
    indices = np.asarray([9, 0, 5, 6, 0])
    images = read(indices)
    assert images.shape == (5, 2, 2, 3)
    np.testing.assert_array_equal(images[:, 0, 0, 0], indices)


def test_batches_without_all_of_their_images_are_missing(folder):
    assert samples.missing_batches(folder, 5, 2, pytest.fail) == []
    samples.shard_path(folder, 3, 6).unlink()
    assert samples.missing_batches(folder, 2, 5, pytest.fail) == [1, 2]


def test_a_damaged_file_is_told_and_its_images_are_missing(folder):
    tiny.flip_last_bit(samples.shard_path(folder, 6, 10))
    told = []
    assert samples.missing_batches(folder, 5, 2, told.append) == [1]
    assert "images_00000006_00000010" in told[0]


def test_what_is_not_there_yet_is_missing(tmp_path):
    assert samples.missing_batches(tmp_path / "none", 4, 3, pytest.fail) == [0, 1, 2]


def test_a_batch_is_removed_with_every_file_that_overlaps_it(folder):
    samples.remove_batch(folder, 5, 7)
    assert [shard.first for shard in samples.list_shards(folder)] == [0]


def test_refreshes_have_folders_of_their_own(tmp_path):
    folders = [samples.refresh_folder(tmp_path, refresh) for refresh in range(12)]
    assert sorted(set(folders)) == folders
