"""What a run says before it works: how long it will take, what it needs, what it can tell.

Time and memory are estimates, by the shapes of the model's activations and one product of matrices
on the device. Their constants come from the measurements of `docs/performance.md`: programs reach
so much of the rate of such a product, and hold so much of a model's activations.
"""

import dataclasses
import math
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from maskaq_jax.config import SYNTHESIS_METHODS, Config, evaluation_source
from maskaq_jax.models import Model, full_precision, shapes
from maskaq_jax.runs import workload
from maskaq_jax.runs.inputs import RunInputs
from maskaq_jax.runs.plan import Plan
from maskaq_jax.runs.session import Session
from maskaq_jax.synthesis.loop import choose_num_parts

_FLOAT_BYTES = 4
# Of a block: operations of the dense layers a token, in squares of its channels; and values that
# gradients need, in channels of its tokens and in attention logits.
_DENSE_OPERATIONS, _HELD_CHANNELS, _HELD_LOGITS = 24, 16, 4
# Checkpoints that are kept at a time: `checkpoint.open_manager`.
_MOST_CHECKPOINTS = 6


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a model.

    Attributes:
      operations: floating-point, of an image's pass through it.
      image_bytes: activations of an image that a gradient through it needs.
      block_bytes: those of its largest block.
      num_params: its parameters.
    """

    operations: float
    image_bytes: float
    block_bytes: float
    num_params: int


@dataclasses.dataclass(frozen=True)
class Speed:
    """Of a kind of device.

    Attributes:
      rate: operations a second of large products of float32 matrices, of all devices together.
      shares: of the rate that a run's work comes to, at most and at least.
      start: seconds of programs that come from a cache, and of those that are compiled.
      held: how much of the activations a step holds at a time.
      own_bytes: of a process before any of it.
    """

    rate: float
    shares: tuple[float, float]
    start: tuple[float, float]
    held: float
    own_bytes: float


class Expectation(NamedTuple):
    """Of a run: from and to how many seconds; bytes of memory and, at most, of disk."""

    seconds: tuple[float, float]
    memory: float
    disk: float


def tell(session: Session, step: int | None, state_bytes: int) -> None:
    """Says what the rest of a run will take, and what its results will tell; every host must ask.

    Args:
      session: of the run.
      step: training steps that are taken; None where nothing is done.
      state_bytes: of a checkpoint.
    """
    inputs, plan, progress = session.inputs, session.plan, session.progress
    work = workload.total(inputs, plan) - _work_done(session, step)
    if progress.is_silent:
        return
    speed = measure_speed(inputs.mesh)
    expected = expect(inputs, plan, work, cost(inputs.model), speed, state_bytes)
    low, high = map(_about, expected.seconds)
    device = f"{inputs.mesh.size} x {inputs.mesh.devices.flat[0].device_kind}"
    progress.message(
        f"expected: {low} to {high} on {device}, about {_size(expected.memory)} of memory, and up "
        f"to {_size(expected.disk)} of disk"
    )
    progress.message(f"the results will tell {what_is_told(inputs)}")
    free_disk = shutil.disk_usage(inputs.workdir).free
    if free_disk < expected.disk:
        progress.warn(
            f"the disk of {inputs.workdir} has {_size(free_disk)} left, and the run may need "
            f"{_size(expected.disk)}"
        )
    left = free_memory(inputs.mesh)
    if left is not None and left < expected.memory:
        progress.warn(
            f"{_size(left)} of memory are left, and the run may need "
            f"{_size(expected.memory)}: smaller config.samples.batch_size, "
            "config.finetuning.batch_size and config.evaluation.batch_size take less"
        )


def what_is_told(inputs: RunInputs) -> str:
    """What the results of a run can say, by the images that there are."""
    source, count = evaluation_source(inputs.config), inputs.num_evaluation_images
    if source is None:
        return (
            "how far the quantized model agrees with the full-precision one on the samples, and no "
            "accuracy: there is no evaluation dataset (config.evaluation)"
        )
    if inputs.is_labelled:
        figure = {"detection": "average precision", "segmentation": "mean IoU"}.get(
            inputs.model.task, "top-1 accuracy"
        )
        return f"the {figure} of both models on {count} images of {source.name}"
    return f"how alike the features of both models are on {count} images of {source.name}"


def expect(
    inputs: RunInputs, plan: Plan, work: float, one: Cost, speed: Speed, state_bytes: int
) -> Expectation:
    """What a run takes.

    Args:
      inputs: of the run.
      plan: of the run.
      work: that is left of it, in passes of an image, as `workload` counts.
      one: the model's cost.
      speed: of the devices.
      state_bytes: of a checkpoint.
    """
    operations = work * one.operations
    low, high = (
        start + operations / (speed.rate * share)
        for start, share in zip(speed.start, speed.shares, strict=True)
    )
    return Expectation(
        (low, high), _memory(inputs, one, speed), _disk(inputs.config, plan, inputs, state_bytes)
    )


def cost(model: Model) -> Cost:
    """Of a model in full precision, by the shapes of what its blocks show."""
    whole: Any = full_precision(model)
    (_, out), variables = jax.eval_shape(
        whole.init_with_output, shapes.key_shape(), shapes.image_shapes(model, 1)
    )
    operations, held = 0.0, []
    for tokens, logits in zip(out["block_outputs"], out["attention_logits"], strict=True):
        channels = tokens.shape[-1]
        operations += _DENSE_OPERATIONS * tokens.size * channels
        # Two products of heads: queries with keys, probabilities with values.
        operations += 4 * logits.size * channels / logits.shape[1]
        held.append(_FLOAT_BYTES * (_HELD_CHANNELS * tokens.size + _HELD_LOGITS * logits.size))
    num_params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    return Cost(operations, sum(held), max(held), num_params)


def measure_speed(mesh: Mesh) -> Speed:
    """Of the devices of a mesh, by a product on one of this host's."""
    device = mesh.local_devices[0]
    is_cpu = device.platform == "cpu"
    side = 1024 if is_cpu else 4096
    with jax.default_device(device):
        matrix = jnp.ones((side, side))
        product = jax.jit(jnp.dot)
        jax.block_until_ready(product(matrix, matrix))
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            jax.block_until_ready(product(matrix, matrix))
            seconds.append(time.perf_counter() - started)
    rate = 2 * side**3 / min(seconds)
    if is_cpu:  # whose devices share its cores
        num_hosts = len({one.process_index for one in mesh.devices.flat})
        return Speed(rate * num_hosts, (0.9, 0.25), (15.0, 60.0), 1.5, 0.45e9)
    return Speed(rate * mesh.size, (0.7, 0.1), (40.0, 200.0), 0.75, 0.0)


def _work_done(session: Session, step: int | None) -> float:
    """Of a run that continues: what is done, and the batches of images that it continues with."""
    inputs, plan, store = session.inputs, session.plan, session.store
    done = 0.0 if step is None else workload.before(inputs, plan, step)
    if inputs.config.method in SYNTHESIS_METHODS:
        kept = store.num_batches - len(store.missing(plan.refresh_of(step or 0)))
        steps = kept * store.batch_size * inputs.config.synthesis.num_steps
        done += workload.per_unit(inputs.config)["synthesis"] * steps
    return done


def _memory(inputs: RunInputs, one: Cost, speed: Speed) -> float:
    """Bytes of a device, or of a host whose CPU is the device, in the phase that takes most."""
    config, mesh = inputs.config, inputs.mesh
    params = _FLOAT_BYTES * one.num_params
    local = len(mesh.local_devices) if mesh.local_devices[0].platform == "cpu" else 1

    def on_device(count: int) -> int:
        return local * math.ceil(count / mesh.size)

    count = on_device(min(config.evaluation.batch_size, config.samples.num_samples))
    if inputs.evaluation is not None:
        count = on_device(min(config.evaluation.batch_size, len(inputs.evaluation)))
    phases = [2 * params + count * one.block_bytes]
    if config.method in SYNTHESIS_METHODS:
        count = math.ceil(min(config.samples.batch_size, config.samples.num_samples) / mesh.size)
        count = local * count // choose_num_parts(inputs.model, count, mesh)
        phases.append(2 * params + 2 * speed.held * count * one.image_bytes)
    if config.finetuning.epochs:
        # P, Q, its gradient, its average and two moments; P's pass and Q's.
        count = on_device(config.finetuning.batch_size)
        phases.append(6 * params + 2 * speed.held * count * one.image_bytes)
    if config.calibration.fits:
        phases.append(2 * params + config.calibration.num_views * one.block_bytes)
    return speed.own_bytes + max(phases)


def _disk(config: Config, plan: Plan, inputs: RunInputs, state_bytes: int) -> float:
    """Bytes of all checkpoints and synthetic images."""
    count = min(_MOST_CHECKPOINTS, 1 + plan.num_steps)
    images = plan.num_batches * plan.batch_size * plan.num_syntheses
    if config.method not in SYNTHESIS_METHODS:
        images = 0
    return count * state_bytes + images * _FLOAT_BYTES * math.prod(inputs.model.input_shape)


def free_memory(mesh: Mesh) -> float | None:
    """Bytes that a device, or the host whose CPU is the device, has left; None where none says."""
    device = mesh.local_devices[0]
    if device.platform != "cpu":
        limit = (device.memory_stats() or {}).get("bytes_limit")
        return None if limit is None else float(limit)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _about(seconds: float) -> str:
    """Two digits, as of an estimate: '45 s', '2.5 min', '12 h', '51 days'."""
    units = (("days", 86_400), ("h", 3600), ("min", 60))
    unit, size = next((unit for unit in units if seconds >= 2 * unit[1]), ("s", 1))
    return f"{float(f'{seconds / size:.2g}'):g} {unit}"


def _size(count: float) -> str:
    """Bytes as a person says them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1.0, count / 1e6):.0f} MB"
