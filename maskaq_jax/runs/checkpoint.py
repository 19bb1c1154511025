"""Saves and restores the state of fine-tuning with Orbax, and notices damaged files."""

import json
import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from maskaq_jax.devices import parallel
from maskaq_jax.runs.plan import Plan
from maskaq_jax.schema import ConfigError
from maskaq_jax.storage import failures

Manager: TypeAlias = ocp.CheckpointManager

_NEWEST_KEPT = 2
# Of which no more than the newest are kept.
_NO_PLAN = Plan(epochs=0, steps_per_epoch=1, refresh_every=0)


class Checkpoint(NamedTuple):
    """What `restore` found.

    Attributes:
      step: training steps taken; 0 is the calibrated model.
      trees: named pytrees of arrays.
      progress: JSON values.
    """

    step: int
    trees: dict[str, Any]
    progress: dict[str, Any]


class DamagedError(OSError):
    """A checkpoint is not what was saved."""


def open_manager(directory: Path, plan: Plan = _NO_PLAN) -> Manager:
    """Saves in the background; keeps the newest two, and what a run may go back to: the state that
    its samples were made from, the last two that were compared, and the calibrated model.

    Args:
      directory: of the checkpoints.
      plan: of the run.
    """
    policies = [
        checkpoint_managers.LatestN(_NEWEST_KEPT),
        checkpoint_managers.EveryNSteps(plan.steps_per_refresh, max_to_keep=1),
        checkpoint_managers.EveryNSteps(plan.steps_per_comparison, max_to_keep=2),
        checkpoint_managers.EveryNSteps(plan.num_steps + 1, max_to_keep=1),
    ]
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
        enable_async_checkpointing=True,
        cleanup_tmp_directories=True,
    )
    return Manager(directory.absolute(), options=options)


def open_reader(directory: Path) -> Manager:
    """Reads alone, and leaves a directory as it is: a run may be at work in it."""
    # The last two follow from the first; Orbax warns where they do not say so.
    options = ocp.CheckpointManagerOptions(read_only=True, save_interval_steps=0, create=False)
    # It warns of what it is asked for, that it is to write nothing.
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return Manager(directory.absolute(), options=options)
    finally:
        logger.setLevel(before)


def save(manager: Manager, step: int, trees: dict[str, Any], progress: dict[str, Any]) -> None:
    """Saves the state after `step` training steps, with what is known of the run so far.

    Does nothing where that step is saved already.

    Args:
      manager: of `open_manager`.
      step: training steps taken.
      trees: named pytrees of arrays, each of which can be restored alone.
      progress: JSON values.
    """
    if step in manager.all_steps():
        return
    checksums = {name: checksum(tree) for name, tree in trees.items()}
    # A copy: it is written in the background, while the run goes on.
    progress = json.loads(json.dumps(progress))
    record = {
        "progress": progress,
        "checksums": checksums,
        "layouts": {name: _layout(tree) for name, tree in trees.items()},
        "own": _json_checksum(progress),
    }
    items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
    manager.save(step, args=ocp.args.Composite(progress=ocp.args.JsonSave(record), **items))


def restore(
    manager: Manager,
    templates: dict[str, Any],
    on_damaged: Callable[[str], None],
    is_usable: Callable[[int], bool] = lambda step: True,
) -> Checkpoint | None:
    """The newest checkpoint that can be read, or None where there is none.

    Args:
      manager: of `open_manager` or `open_reader`.
      templates: the trees wanted, as arrays or `jax.ShapeDtypeStruct`s in their shape.
      on_damaged: is told of every checkpoint that can't be read; the one before it is next.
      is_usable: whether a run can continue from a step.

    Raises:
      ConfigError: it is whole, but of other arrays than the templates.
      MemoryError, OSError, JaxRuntimeError: the machine failed, not the file: no memory, no rights,
        a disk or a network that doesn't answer. Nothing is said of the checkpoint then.
    """
    for step in sorted(manager.all_steps(), reverse=True):
        if not is_usable(step):
            continue
        try:
            return _read(manager, step, templates)
        except Exception as error:  # whatever damaged files make their readers raise
            name = f"checkpoint {manager.directory / str(step)}"
            if failures.is_of_machine(error):
                if isinstance(error, ValueError):
                    raise OSError(f"{name} can't be read: {_reason(error)}") from error
                raise
            if _is_of_another_version(manager, step, templates):
                raise ConfigError(
                    f"{name} was saved by another version of this program or of optax: continue "
                    "with that one, or name another --workdir"
                ) from error
            on_damaged(f"{name} is damaged: {_reason(error)}")
    return None


def discard_after(manager: Manager, step: int) -> None:
    """Removes the checkpoints after `step`, from which a run did not continue."""
    manager.wait_until_finished()
    for later in manager.all_steps():
        if later > step:
            manager.delete(later)


def _read(manager: Manager, step: int, templates: dict[str, Any]) -> Checkpoint:
    items = {name: ocp.args.StandardRestore(tree) for name, tree in templates.items()}
    restored = manager.restore(
        step, args=ocp.args.Composite(progress=ocp.args.JsonRestore(), **items)
    )
    record, trees = restored["progress"], {name: restored[name] for name in templates}
    _check(record, trees)
    return Checkpoint(step, trees, record["progress"])


def _reason(error: Exception) -> str:
    """The first line of an error; TensorStore's end with all it knows of the file."""
    told, _, _ = str(error).strip().partition(" [tensorstore_spec=")
    return (told.splitlines() or [type(error).__name__])[0]


def _is_of_another_version(manager: Manager, step: int, templates: dict[str, Any]) -> bool:
    """Whether its record tells of other arrays than the templates; not where it is damaged too."""
    try:
        restored = manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))
        layouts = restored["progress"]["layouts"]
        return any(layouts[name] != _layout(tree) for name, tree in templates.items())
    except Exception:  # as above
        return False


def _layout(tree: Any) -> int:
    """CRC-32 of the names, shapes and dtypes of a tree's arrays."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    told = [(jax.tree_util.keystr(path), leaf.shape, str(leaf.dtype)) for path, leaf in leaves]
    return zlib.crc32(repr(told).encode())


def _check(record: dict[str, Any], trees: dict[str, Any]) -> None:
    if record["own"] != _json_checksum(record["progress"]):
        raise DamagedError("its progress does not fit its checksum")
    for name, tree in trees.items():
        if record["checksums"][name] != checksum(tree):
            raise DamagedError(f"its {name} do not fit their checksum")


def checksum(tree: Any) -> int:
    """CRC-32 of a tree of replicated arrays, with their names."""
    value = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(parallel.fetch(leaf) if isinstance(leaf, jax.Array) else leaf)
        value = zlib.crc32(jax.tree_util.keystr(path).encode(), value)
        value = zlib.crc32(array.reshape(-1).view(np.uint8).data, value)
    return value


def _json_checksum(values: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())
