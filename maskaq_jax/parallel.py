"""The device mesh, and how a per-device function is mapped over it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"
SHARDED = PartitionSpec(AXIS)
REPLICATED = PartitionSpec()


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """One axis, `data`, over the devices of every host, or over those given."""
    return Mesh(np.asarray(devices or jax.devices()), (AXIS,))


def map_over_devices(
    function: Callable[..., Any],
    mesh: Mesh,
    in_specs: Any,
    out_specs: Any,
    donate: tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Compiles a per-device function, which may use collectives over `AXIS`, for a mesh.

    Args:
      function: takes and returns each device's share.
      mesh: of `make_mesh`.
      in_specs: a `PartitionSpec` for each argument, or a tree of them.
      out_specs: the same for what it returns.
      donate: numbers of the arguments whose memory the results may reuse.
    """
    # As in jax.pmap, collectives are differentiated per device: check_vma would instead sum the
    # gradients of replicated values on its own, and steps would differ between the two.
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    return jax.jit(mapped, donate_argnums=donate)


def leading_axis_specs(tree: Any) -> Any:
    """Splits arrays along their first axis and replicates scalars."""
    return jax.tree.map(lambda leaf: SHARDED if np.ndim(leaf) else REPLICATED, tree)


def put(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    """Places host arrays, the same on every host, on the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, spec))
