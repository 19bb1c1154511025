"""How a batch is shared out over devices, and what is put on them and fetched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import parallel
from maskaq_jax.parallel import AXIS, REPLICATED, SHARDED
from tests.devices.common import MESHES


@pytest.mark.parametrize("count", [1, 3, 4, 6, 8])
def test_shares_hold_every_image_once(count):
    share = parallel.share_batch(10, 10 + count, MESHES[4])
    assert len(share.indices) % 4 == 0
    assert share.indices[share.valid].tolist() == list(range(10, 10 + count))
    assert set(share.indices) == set(range(10, 10 + count))
    assert share.is_padded == (count % 4 != 0)


def test_batches_of_a_dataset_are_of_one_size_and_end_with_it():
    shares = list(parallel.share_batches(11, 6, MESHES[4]))
    assert {len(share.indices) for share in shares} == {8}
    seen = [share.indices[share.valid].tolist() for share in shares]
    assert seen == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert max(share.indices.max() for share in shares) == 10
    assert [(share.first, share.stop) for share in shares] == [(0, 6), (6, 11)]
    assert all(share.is_padded for share in shares)


def test_a_batch_is_no_larger_than_all_images_together():
    (share,) = parallel.share_batches(3, 256, MESHES[4])
    assert share.indices[share.valid].tolist() == [0, 1, 2]
    assert len(share.indices) == 4


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
