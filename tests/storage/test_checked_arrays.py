import pathlib
import zlib

import numpy as np
import pytest
from safetensors.numpy import save_file

from maskaq_jax.storage import checked_arrays
from tests import tiny


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 4, 4, 3)).astype(np.float32)
    return {"images": images, "labels": np.arange(3, dtype=np.int32), "step": np.int32(7)}


def test_a_batch_is_read_as_it_was_written(tmp_path, batch):
    checked_arrays.write_arrays(tmp_path / "batch", batch)
    read = checked_arrays.read_arrays(tmp_path / "batch")
    assert read.keys() == batch.keys()
    for name, expected in batch.items():
        np.testing.assert_array_equal(read[name], expected)
        assert (read[name].dtype, read[name].shape) == (expected.dtype, expected.shape)


def test_a_view_of_other_memory_is_stored_as_it_looks(tmp_path, batch):
    turned = batch["images"][::-1].transpose(0, 2, 1, 3)
    checked_arrays.write_arrays(tmp_path / "batch", {"images": turned})
    np.testing.assert_array_equal(checked_arrays.read_arrays(tmp_path / "batch")["images"], turned)


def test_a_batch_that_cannot_be_written_leaves_the_one_before(tmp_path, batch, monkeypatch):
    path = tmp_path / "shard.safetensors"
    checked_arrays.write_arrays(path, batch)

    def fail(unfinished, content):
        with unfinished.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(pathlib.Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        checked_arrays.write_arrays(path, {"images": batch["images"] + 1})
    np.testing.assert_array_equal(checked_arrays.read_arrays(path)["images"], batch["images"])


def test_who_may_read_other_files_may_read_a_batch(tmp_path, batch):
    (tmp_path / "text").write_text("")
    checked_arrays.write_arrays(tmp_path / "shard.safetensors", batch)
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize(
    "damage", [tiny.flip_last_bit, lambda path: path.write_bytes(path.read_bytes()[:-9])]
)
def test_a_damaged_file_is_named(tmp_path, batch, damage):
    path = tmp_path / "shard.safetensors"
    checked_arrays.write_arrays(path, batch)
    damage(path)
    with pytest.raises(checked_arrays.BrokenFileError, match=r"shard\.safetensors"):
        checked_arrays.read_arrays(path)


def test_any_changed_byte_of_the_content_is_noticed(tmp_path, batch):
    path = tmp_path / "shard.safetensors"
    checked_arrays.write_arrays(path, batch)
    whole = path.read_bytes()
    for place in range(len(whole) - 40, len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x10
        path.write_bytes(bytes(changed))
        with pytest.raises(checked_arrays.BrokenFileError):
            checked_arrays.read_arrays(path)


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        (b"num_heads: 2", b"num_heads: 1"),
        (b'"dtype":"F32"', b'"dtype":"I32"'),
        (b'"shape":[2,6]', b'"shape":[6,2]'),
        (b"crc32_of_all", b"crc32_of_old"),
    ],
)
def test_a_change_of_what_describes_the_content_is_noticed(tmp_path, there, instead):
    path = tmp_path / "model.safetensors"
    arrays = {"kernel": np.ones((2, 6), np.float32)}
    checked_arrays.write_arrays(path, arrays, {"model": "num_heads: 2"})
    whole = path.read_bytes()
    assert there in whole
    path.write_bytes(whole.replace(there, instead))
    with pytest.raises(checked_arrays.BrokenFileError):
        checked_arrays.read_arrays(path)


def test_the_same_content_is_the_same_bytes(tmp_path, batch):
    texts = {f"text {number}": "é" for number in range(9)}
    files = set()
    for number in range(4):
        path = tmp_path / str(number)
        checked_arrays.write_arrays(path, batch, texts)
        files.add(path.read_bytes())
    assert len(files) == 1
    assert checked_arrays.read_metadata(path).items() >= texts.items()
    checked_arrays.read_arrays(path)


def test_files_that_earlier_runs_have_written_are_read(tmp_path):
    path = tmp_path / "shard.safetensors"
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    checksum = str(zlib.crc32(array.tobytes(), zlib.crc32(b"images")))
    save_file({"images": array}, path, {"crc32": checksum})
    np.testing.assert_array_equal(checked_arrays.read_arrays(path)["images"], array)
    tiny.flip_last_bit(path)
    with pytest.raises(checked_arrays.BrokenFileError):
        checked_arrays.read_arrays(path)
