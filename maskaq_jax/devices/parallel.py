"""The devices of one host or many, and how a per-device function is mapped over them."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

AXIS = "data"
# Specs stand in the places of arrays in trees, as jax.shard_map wants it.
SHARDED: Any = PartitionSpec(AXIS)
REPLICATED: Any = PartitionSpec()


class HostRows(NamedTuple):
    """A host's rows of a global batch.

    Attributes:
      first: number of the batch's first image.
      stop: number after its last.
      indices: [n] int32 numbers of this host's images.
      valid: [n] bool, false where an image is padding.
      is_padded: whether any host's rows have padding.
    """

    first: int
    stop: int
    indices: np.ndarray
    valid: np.ndarray
    is_padded: bool


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run; call it before anything else of JAX.

    Args:
      coordinator_address: HOST:PORT of process 0; None to take all three from the environment of a
        TPU pod, Slurm, GKE or Open MPI.
      num_processes: how many there are.
      process_id: which one this is.

    Raises:
      ValueError: nothing in the environment tells, or the numbers don't fit each other.
    """
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except ValueError as error:
        if coordinator_address is not None:
            raise
        raise ValueError(
            "the environment does not tell which processes to join: give --coordinator, "
            "--num_processes and --process_id, or start on a TPU pod or by Slurm, GKE or Open MPI "
            f"(JAX: {error})"
        ) from error


def is_main_process() -> bool:
    """Whether this process is the one that reports."""
    return jax.process_index() == 0


def find_devices() -> list[jax.Device]:
    """Those of every host.

    Raises:
      OSError: JAX finds none.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        # JAX asserts that there is one where a platform is known, but nothing of it installed.
        why = (
            str(error) or f"nothing here serves JAX_PLATFORMS={jax.config.values['jax_platforms']}"
        )
        raise OSError(f"JAX finds no device: {why}") from error


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """One axis, `data`, over the devices of every host, or over those given.

    A host's devices stand side by side, so that its rows of a batch are consecutive.

    Raises:
      OSError: JAX finds none.
    """
    devices = devices or find_devices()
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(ordered), (AXIS,))


def map_over_devices(
    function: Callable[..., Any],
    mesh: Mesh,
    in_specs: Any,
    out_specs: Any,
    donate: tuple[int, ...] = (),
) -> jax.stages.Wrapped:
    """Compiles a per-device function, which may use collectives over `AXIS`, for a mesh.

    Args:
      function: takes and returns each device's rows.
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


def shapes_on(sharding: Sharding, tree: Any) -> Any:
    """Shapes and dtypes of a tree of arrays, as placed by a sharding."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def leading_axis_specs(tree: Any) -> Any:
    """Splits arrays along their first axis and replicates scalars."""
    return jax.tree.map(lambda leaf: SHARDED if np.ndim(leaf) else REPLICATED, tree)


def rows_of_batch(first: int, stop: int, mesh: Mesh, least: int = 0) -> HostRows:
    """This host's rows of the batch of images from number `first` to before `stop`.

    A batch of fewer than `least` images, or that the devices don't divide, is padded by its own
    images, once more; `valid` is false for these.
    """
    count = stop - first
    size = math.ceil(max(count, least) / mesh.size) * mesh.size
    mine = [i for i, device in enumerate(mesh.devices.flat) if _is_local(device)]
    per_device = size // mesh.size
    rows = slice(mine[0] * per_device, (mine[-1] + 1) * per_device)
    places = np.arange(size)[rows]
    indices = (first + places % count).astype(np.int32)
    return HostRows(first, stop, indices, places < count, size > count)


def rows_of_batches(count: int, batch_size: int, mesh: Mesh) -> Iterator[HostRows]:
    """Rows of `count` images in batches, all of one size on the devices.

    None is larger than all the images: padding takes memory and time as images do.
    """
    batch_size = min(batch_size, count)
    for first in range(0, count, batch_size):
        yield rows_of_batch(first, min(first + batch_size, count), mesh, least=batch_size)


def put(tree: Any, mesh: Mesh, partition: PartitionSpec) -> Any:
    """Places host arrays on the mesh.

    Args:
      tree: arrays; the same on every host if replicated, else each host's own rows.
      mesh: of `make_mesh`.
      partition: how they are split.
    """
    sharding = NamedSharding(mesh, partition)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def place(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)))
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(place, tree)


def fetch(tree: Any) -> Any:
    """Arrays of the mesh as host arrays: of replicated ones all, of split ones this host's rows."""

    def fetch_array(array: Any) -> np.ndarray:
        if not isinstance(array, jax.Array):
            return np.asarray(array)
        if array.is_fully_replicated:
            return np.asarray(array.addressable_data(0))
        shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])

    return jax.tree.map(fetch_array, tree)


def take_from_main(value: Any) -> Any:
    """Process 0's value on every host: numbers and arrays of one shape everywhere, or a tree."""
    if jax.process_count() == 1:
        return value
    return multihost_utils.broadcast_one_to_all(value)


def any_host(flag: Any) -> bool:
    """Whether it is set on any host; all hosts must call it."""
    if jax.process_count() == 1:
        return bool(flag)
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def wait_for_hosts(purpose: str) -> None:
    """Returns when every host is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(purpose)


def _is_local(device: jax.Device) -> bool:
    return device.process_index == jax.process_index()
