import numpy as np
import pytest

from maskaq_jax import samples


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 4, 4, 3)).astype(np.float32), np.arange(3, dtype=np.int32)


def test_a_batch_is_read_as_it_was_written(tmp_path, batch):
    path = samples.shard_path(tmp_path, refresh=2, batch=7)
    samples.write_shard(path, *batch)
    for actual, expected in zip(samples.read_shard(path), batch, strict=True):
        np.testing.assert_array_equal(actual, expected)
        assert actual.dtype == expected.dtype


def test_a_view_of_other_memory_is_stored_as_it_looks(tmp_path, batch):
    images, labels = batch
    path = tmp_path / "shard.safetensors"
    samples.write_shard(path, images[::-1].transpose(0, 2, 1, 3), labels)
    np.testing.assert_array_equal(samples.read_shard(path)[0], images[::-1].transpose(0, 2, 1, 3))


def test_a_batch_that_cannot_be_written_leaves_the_one_before(tmp_path, batch, monkeypatch):
    path = tmp_path / "shard.safetensors"
    samples.write_shard(path, *batch)

    def fail(arrays, unfinished):
        unfinished.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(samples, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        samples.write_shard(path, batch[0] + 1, batch[1])
    np.testing.assert_array_equal(samples.read_shard(path)[0], batch[0])


def test_batches_and_refreshes_have_paths_of_their_own(tmp_path):
    paths = {samples.shard_path(tmp_path, refresh, b) for refresh in range(3) for b in range(4)}
    assert len(paths) == 12
    assert sorted(paths) == [samples.shard_path(tmp_path, r, b) for r in range(3) for b in range(4)]
