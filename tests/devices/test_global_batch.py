"""Reductions over a batch that lies on several devices, some of whose images are padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.devices import parallel
from maskaq_jax.devices.global_batch import LOCAL, GlobalBatch
from maskaq_jax.devices.parallel import AXIS, REPLICATED, SHARDED
from tests.devices.common import MESHES

X = jnp.arange(24, dtype=jnp.float32).reshape(8, 3)
VALID = jnp.arange(8) < 6
REDUCTIONS = {
    "mean": (GlobalBatch.mean, np.mean),
    "total": (GlobalBatch.total, np.sum),
    "norm": (GlobalBatch.norm, np.linalg.norm),
    "count": (lambda over, x: over.count(len(x)), len),
}


@pytest.mark.parametrize("count", MESHES)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_are_of_the_valid_images_of_all_devices(name, padded, count):
    reduce, expected = REDUCTIONS[name]
    reduced = parallel.map_over_devices(
        lambda x, valid: reduce(GlobalBatch(AXIS, valid if padded else None), x),
        MESHES[count],
        (SHARDED, SHARDED),
        REPLICATED,
    )(X, VALID)
    np.testing.assert_allclose(reduced, expected(np.asarray(X[:6] if padded else X)), rtol=1e-6)


def test_windows_belong_to_their_image():
    over = GlobalBatch(valid=jnp.array([True, False]))
    assert over.total(jnp.arange(6.0)) == 0 + 1 + 2  # two images of three windows


def test_the_norm_of_nothing_has_no_slope():
    value, slope = jax.value_and_grad(LOCAL.norm)(jnp.zeros((2, 3)))
    assert value == 0
    assert not slope.any()


def test_it_is_split_as_its_arrays_are():
    over = GlobalBatch(AXIS, VALID)
    halves = jax.tree.map(lambda leaf: leaf[:4], over)
    assert halves.axis_name == AXIS
    assert halves.valid.shape == (4,)
