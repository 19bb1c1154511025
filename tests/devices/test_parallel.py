"""How a batch is shared out over devices, and what is put on them and fetched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.devices import parallel
from maskaq_jax.devices.parallel import AXIS, REPLICATED, SHARDED
from tests.devices.common import MESHES


@pytest.mark.parametrize("count", [1, 3, 4, 6, 8])
def test_shares_hold_every_image_once(count):
    rows = parallel.rows_of_batch(10, 10 + count, MESHES[4])
    assert len(rows.indices) % 4 == 0
    assert rows.indices[rows.valid].tolist() == list(range(10, 10 + count))
    assert set(rows.indices) == set(range(10, 10 + count))
    assert rows.is_padded == (count % 4 != 0)


def test_batches_of_a_dataset_are_of_one_size_and_end_with_it():
    batches = list(parallel.rows_of_batches(11, 6, MESHES[4]))
    assert {len(rows.indices) for rows in batches} == {8}
    seen = [rows.indices[rows.valid].tolist() for rows in batches]
    assert seen == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert max(rows.indices.max() for rows in batches) == 10
    assert [(rows.first, rows.stop) for rows in batches] == [(0, 6), (6, 11)]
    assert all(rows.is_padded for rows in batches)


def test_a_batch_is_no_larger_than_all_images_together():
    (rows,) = parallel.rows_of_batches(3, 256, MESHES[4])
    assert rows.indices[rows.valid].tolist() == [0, 1, 2]
    assert len(rows.indices) == 4


def test_what_is_put_on_the_devices_can_be_fetched():
    tree = {"images": np.arange(16.0).reshape(8, 2), "step": np.float32(3)}
    split = parallel.put(tree["images"], MESHES[4], SHARDED)
    np.testing.assert_array_equal(parallel.fetch(split), tree["images"])
    same = parallel.fetch(parallel.put(tree, MESHES[4], REPLICATED))
    jax.tree.map(np.testing.assert_array_equal, same, tree)


def test_arrays_split_along_their_first_axis_and_scalars_do_not():
    tree = {"images": jnp.zeros((8, 2)), "step": jnp.zeros(())}
    assert parallel.leading_axis_specs(tree) == {"images": SHARDED, "step": REPLICATED}
    split = parallel.put(tree["images"], MESHES[4], SHARDED)
    assert {shard.data.shape for shard in split.addressable_shards} == {(2, 2)}


def test_a_mesh_takes_every_device_unless_told():
    assert parallel.make_mesh().devices.size == jax.device_count() == 4
    assert parallel.make_mesh().axis_names == (AXIS,)
