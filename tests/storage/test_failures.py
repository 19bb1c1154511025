"""What the machine fails at is told apart from what is wrong with a file."""

import contextlib
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from safetensors.numpy import save_file

from maskaq_jax import torch_import
from maskaq_jax.models import create_model
from maskaq_jax.storage import checked_arrays, failures
from maskaq_jax.synthesis.store import Store, refresh_folder, shard_path


@contextlib.contextmanager
def no_file_descriptors():
    """As in a process that has opened as many files as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_tensorstore_can_not_open_is_of_the_machine_and_what_is_missing_is_not(tmp_path):
    (tmp_path / "array").write_bytes(b"numbers")
    store = tensorstore.KvStore.open({"driver": "file", "path": f"{tmp_path}/"}).result()
    with no_file_descriptors(), pytest.raises(ValueError, match="Too many open files") as raised:
        store.read("array").result()
    assert failures.is_of_machine(raised.value)
    array = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{tmp_path}/none/"}}
    with pytest.raises(ValueError, match="NOT_FOUND") as raised:
        tensorstore.open(array).result()
    assert not failures.is_of_machine(raised.value)


def test_an_array_larger_than_memory_is_out_of_memory():
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        jnp.zeros(1 << 44).block_until_ready()
    assert failures.is_out_of_memory(raised.value)
    assert not failures.is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: of a library"))


def _list_missing(root):
    return Store(root, 1, 2, pytest.fail).missing(0)


def _read_all(root):
    return checked_arrays.read_arrays(_shard(root))


def _read_one(root):
    return Store(root, 1, 2, pytest.fail).read(0)(np.arange(1))


def _shard(root):
    return shard_path(refresh_folder(root, 0), 0, 2)


@pytest.mark.parametrize("read", [_list_missing, _read_all, _read_one])
def test_images_that_can_not_be_opened_now_are_not_missing(tmp_path, read):
    checked_arrays.write_arrays(_shard(tmp_path), {"images": np.zeros((2, 1, 1, 3))})
    with no_file_descriptors(), pytest.raises(OSError, match="Too many open files") as raised:
        read(tmp_path)
    assert not isinstance(raised.value, checked_arrays.BrokenFileError)
    assert _list_missing(tmp_path) == []
    assert _list_missing(tmp_path / "none") == [0]


def test_images_that_can_not_be_opened_while_training_are_not_called_missing(tmp_path):
    checked_arrays.write_arrays(_shard(tmp_path), {"images": np.zeros((2, 1, 1, 3))})
    read = Store(tmp_path, 1, 2, pytest.fail).read(0)
    with no_file_descriptors(), pytest.raises(OSError, match="Too many open files"):
        read(np.arange(1))


def test_weights_that_can_not_be_opened_are_not_called_missing(tmp_path):
    save_file({"norm.weight": np.zeros(3)}, tmp_path / "weights.safetensors")
    model = create_model("vit", 3, img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1)
    with no_file_descriptors(), pytest.raises(OSError, match="Too many open files"):
        torch_import.load_torch_weights(tmp_path / "weights.safetensors", model)
