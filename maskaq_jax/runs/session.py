"""What a run holds while it is at work: entered once, and let go however it ends."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import jax
from jax import Array

from maskaq_jax.devices import parallel
from maskaq_jax.runs import checkpoint, directory, workload
from maskaq_jax.runs.inputs import RunInputs
from maskaq_jax.runs.interruption import Clock
from maskaq_jax.runs.metrics import Metrics
from maskaq_jax.runs.plan import Plan, make_plan
from maskaq_jax.runs.progress import Progress
from maskaq_jax.synthesis.store import Store


@dataclasses.dataclass(frozen=True)
class Session:
    """A run at work in its directory, which is its alone.

    Attributes:
      inputs: all it reads.
      plan: when it does what.
      key: of the seed.
      progress: what it shows.
      metrics: what it writes down along the way.
      clock: when it saves and stops.
      checkpoints: of the state of training.
      store: of synthetic images.
    """

    inputs: RunInputs
    plan: Plan
    key: Array
    progress: Progress
    metrics: Metrics
    clock: Clock
    checkpoints: checkpoint.Manager
    store: Store


@contextlib.contextmanager
def open_session(inputs: RunInputs, is_terminated: Callable[[], bool]) -> Iterator[Session]:
    """Takes the run's directory, and opens what it writes there.

    Args:
      inputs: of `inputs.prepare`.
      is_terminated: asked after every step whether to save and stop.

    Raises:
      ConfigError: another run is at work in the directory.
      OSError: it can't be written to.
    """
    config, workdir = inputs.config, inputs.workdir
    plan = make_plan(config)
    is_silent = not parallel.is_main_process()
    with (
        directory.claim(workdir, config, inputs.params, inputs.command, inputs.fingerprints),
        Progress(
            workdir / directory.SECONDS,
            workload.per_unit(config),
            workload.total(inputs, plan),
            is_silent,
        ) as progress,
        Metrics(workdir, is_silent) as metrics,
        checkpoint.open_manager(workdir / directory.CHECKPOINTS, plan) as checkpoints,
    ):
        for note in inputs.notes:
            progress.message(note)
        yield Session(
            inputs=inputs,
            plan=plan,
            key=jax.random.key(config.seed),
            progress=progress,
            metrics=metrics,
            clock=Clock(config.checkpoint_seconds, is_terminated),
            checkpoints=checkpoints,
            store=Store(
                workdir / directory.SAMPLES, plan.num_batches, plan.batch_size, progress.warn
            ),
        )
