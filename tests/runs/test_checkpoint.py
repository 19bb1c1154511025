import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskaq_jax.quantizers import ActivationQuantizer
from maskaq_jax.runs import checkpoint
from maskaq_jax.runs.plan import Plan
from maskaq_jax.schema import ConfigError
from tests import tiny

pytestmark = tiny.ignore_orbax_warnings

# Compared after every step.
PLAN = Plan(epochs=8, steps_per_epoch=1, refresh_every=4)


def _trees(value):
    quantizer = ActivationQuantizer(
        jnp.float32(value), jnp.float32(-value), jnp.bool_(True), jnp.float32(12)
    )
    variables = {"params": {"kernel": jnp.full((3, 2), value)}, "quant": {"input": quantizer}}
    return {"variables": variables, "training": {"step": jnp.int32(value)}}


@pytest.fixture
def directory(tmp_path):
    with checkpoint.open_manager(tmp_path, PLAN) as manager:
        for step in range(8):
            checkpoint.save(manager, step, _trees(step), {"top1": {"fp": 50.0 + step}})
    return tmp_path


def _restore(directory, *arguments, template=None):
    with checkpoint.open_manager(directory) as manager:
        return checkpoint.restore(manager, template or _trees(0), *(arguments or [pytest.fail]))


def _damage(directory, step):
    """Changes a byte of the largest file, which holds numbers."""
    largest = tiny.largest_file(directory / str(step))
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))


def test_the_newest_state_comes_back_with_its_progress(directory):
    step, trees, progress = _restore(directory)
    assert step == 7
    assert progress == {"top1": {"fp": 57.0}}
    jax.tree.map(np.testing.assert_array_equal, trees, _trees(7))
    assert isinstance(trees["variables"]["quant"]["input"], ActivationQuantizer)


def test_one_tree_can_be_restored_alone_from_shapes(directory):
    template = jax.eval_shape(lambda: _trees(0)["variables"])
    _, trees, _ = _restore(directory, template={"variables": template})
    jax.tree.map(np.testing.assert_array_equal, trees, {"variables": _trees(7)["variables"]})


def test_what_a_run_may_go_back_to_is_kept(directory):
    # The calibrated model, the start of the refresh, what was compared last, and the newest two.
    kept = {path.name for path in directory.iterdir() if path.name.isdigit()}
    assert kept == {"0", "4", "6", "7"}


def test_a_new_directory_holds_none(tmp_path):
    assert _restore(tmp_path / "new") is None


def test_saving_a_step_again_changes_nothing(directory):
    with checkpoint.open_manager(directory) as manager:
        checkpoint.save(manager, 7, _trees(0), {})
    assert _restore(directory).progress == {"top1": {"fp": 57.0}}


def _empty(directory, step):
    for path in (directory / str(step)).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def _change_progress(directory, step):
    (path,) = (directory / str(step)).rglob("progress/*metadata*")
    path.write_text(path.read_text().replace("57.0", "58.0"))


@pytest.mark.parametrize("damage", [_damage, _empty, _change_progress])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(directory, damage):
    damage(directory, 7)
    told = []
    assert _restore(directory, told.append).step == 6
    (message,) = told
    assert f"{directory / '7'} is damaged" in message


def test_none_is_left_where_all_are_damaged(directory):
    for step in (0, 4, 6, 7):
        _damage(directory, step)
    told = []
    assert _restore(directory, told.append) is None
    assert len(told) == 4


def test_a_state_of_another_version_is_refused_and_kept(directory):
    template = _trees(0)
    template["training"]["momentum"] = jnp.float32(0)
    before = sorted(directory.iterdir())
    with pytest.raises(ConfigError, match="7 was saved by another version of this program or of"):
        _restore(directory, template=template)
    assert sorted(directory.iterdir()) == before


def test_a_step_that_cannot_be_continued_from_is_passed_over(directory):
    assert _restore(directory, pytest.fail, lambda step: step < 6).step == 4


def test_later_checkpoints_can_be_discarded_and_saved_again(directory):
    with checkpoint.open_manager(directory, PLAN) as manager:
        checkpoint.discard_after(manager, 4)
        checkpoint.save(manager, 5, _trees(15), {})
    assert _restore(directory).trees["training"]["step"] == 15
