import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax import checkpoint
from maskaq_jax.quantizers import ActivationQuantizer

# Orbax leaves an event loop to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestWarning")


def _trees(value):
    quantizer = ActivationQuantizer(
        jnp.float32(value), jnp.float32(-value), jnp.bool_(True), jnp.float32(12)
    )
    variables = {"params": {"kernel": jnp.full((3, 2), value)}, "quant": {"input": quantizer}}
    return {"variables": variables, "training": {"step": jnp.int32(value)}}


@pytest.fixture
def directory(tmp_path):
    with checkpoint.open_manager(tmp_path) as manager:
        for epoch in range(4):
            checkpoint.save(manager, epoch, _trees(epoch), {"top1": {"fp": 50.0 + epoch}})
    return tmp_path


def test_the_newest_state_comes_back_with_its_progress(directory):
    with checkpoint.open_manager(directory) as manager:
        epoch, trees, progress = checkpoint.restore(manager, _trees(0))
    assert epoch == 3
    assert progress == {"top1": {"fp": 53.0}}
    jax.tree.map(np.testing.assert_array_equal, trees, _trees(3))
    assert isinstance(trees["variables"]["quant"]["input"], ActivationQuantizer)


def test_one_tree_can_be_restored_alone_from_shapes(directory):
    template = jax.eval_shape(lambda: _trees(0)["variables"])
    with checkpoint.open_manager(directory) as manager:
        _, trees, _ = checkpoint.restore(manager, {"variables": template})
    jax.tree.map(np.testing.assert_array_equal, trees, {"variables": _trees(3)["variables"]})


def test_the_last_two_are_kept(directory):
    assert {path.name for path in directory.iterdir() if path.name.isdigit()} == {"2", "3"}


def test_a_new_directory_holds_none(tmp_path):
    with checkpoint.open_manager(tmp_path / "new") as manager:
        assert checkpoint.restore(manager, _trees(0)) is None
