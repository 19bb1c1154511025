"""Saves and restores the state of fine-tuning with Orbax."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp


def open_manager(directory: Path) -> ocp.CheckpointManager:
    """Keeps the last two checkpoints; saves in the background. Close it, or use `with`."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=True)
    return ocp.CheckpointManager(directory.absolute(), options=options)


def save(
    manager: ocp.CheckpointManager, epoch: int, trees: dict[str, Any], progress: dict[str, Any]
) -> None:
    """Saves the state after `epoch` epochs, with what is known of the run so far.

    Args:
      manager: of `open_manager`.
      epoch: epochs finished; 0 is the calibrated model.
      trees: named pytrees of arrays, each of which can be restored alone.
      progress: JSON values.
    """
    items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
    manager.save(epoch, args=ocp.args.Composite(progress=ocp.args.JsonSave(progress), **items))


def restore(
    manager: ocp.CheckpointManager, templates: dict[str, Any]
) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
    """The newest checkpoint as (epoch, trees, progress), or None where there is none.

    Args:
      manager: of `open_manager`.
      templates: the trees wanted, as arrays or `jax.ShapeDtypeStruct`s in their shape.
    """
    epoch = manager.latest_step()
    if epoch is None:
        return None
    items = {name: ocp.args.StandardRestore(tree) for name, tree in templates.items()}
    restored = manager.restore(
        epoch, args=ocp.args.Composite(progress=ocp.args.JsonRestore(), **items)
    )
    return epoch, {name: restored[name] for name in templates}, restored["progress"]
