"""What the benches take steps of: a config's model, with random weights, and its programs."""

import functools
import importlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from benchmarks.processes import TimedStep, timed
from maskaq_jax import calibration
from maskaq_jax import config as config_lib
from maskaq_jax.config import Config
from maskaq_jax.data.batches import LabelledBatch
from maskaq_jax.devices import parallel
from maskaq_jax.evaluation.classification import Classification
from maskaq_jax.evaluation.loop import EvaluationLoop
from maskaq_jax.finetuning.loop import FinetuningLoop
from maskaq_jax.finetuning.step import FinetuningBatch, FinetuningSpec
from maskaq_jax.models import Model, full_precision
from maskaq_jax.synthesis import loop as synthesis_loop
from maskaq_jax.synthesis import step as synthesis
from maskaq_jax.synthesis.step import SynthesisSpec
from maskaq_jax.synthesis.terms import SynthesisBatch

PHASES = ("synthesis", "finetuning", "evaluation")
# One program, and little memory, whatever the batch.
_MAX_CALIBRATION_IMAGES = 8


class Compiled(NamedTuple):
    """A step's program.

    Attributes:
      program: JAX's.
      num_steps: that a call of the step takes.
      seconds: that it took to have the program.
      trace_seconds: of tracing and lowering, in them.
    """

    program: Any
    num_steps: int
    seconds: float
    trace_seconds: float


class Problem(NamedTuple):
    """What a step is taken on.

    Attributes:
      settings: of the model's config.
      model: Q.
      params: P's weights.
      variables: of Q.
      images: [B, height, width, channels] float32, normalised.
      labels: [B] int32.
      mesh: the devices.
    """

    settings: Config
    model: Model
    params: Any
    variables: dict[str, Any]
    images: Array
    labels: Array
    mesh: Mesh


def make_problem(name: str, batch_size: int, bits: int, **arguments: Any) -> Problem:
    """A config's model, with other arguments where given, and the paper's settings.

    Weights and images are random; the quantizers are calibrated on a few of these images.
    """
    module = importlib.import_module(f"configs.{name}")
    settings = config_lib.validated(module.get_config(f"w={bits},a={bits},preset=paper"))
    model = config_lib.create_model(settings, **arguments)
    key = jax.random.key(0)
    images = jax.random.normal(key, (batch_size, *model.input_shape))
    few = images[:_MAX_CALIBRATION_IMAGES]
    params = jax.jit(full_precision(model).init)(key, few)["params"]
    quant = jax.jit(functools.partial(calibration.calibrate, model))(params, few)
    return Problem(
        settings=settings,
        model=model,
        params=params,
        variables={"params": params, "quant": quant},
        images=images,
        labels=jnp.arange(batch_size, dtype=jnp.int32) % max(1, model.num_classes),
        mesh=parallel.make_mesh(jax.devices()),
    )


def check_phase(phase: str) -> None:
    """Raises ValueError if there is no such phase."""
    if phase not in PHASES:
        raise ValueError(f"no phase {phase!r}: there are {', '.join(PHASES)}")


def is_on_cpu() -> bool:
    """Whether JAX computes on the CPU."""
    return jax.default_backend() == "cpu"


def make_step(problem: Problem, phase: str) -> tuple[TimedStep, Compiled]:
    """A step of ours, and its program.

    Each call takes one dispatch, which has ten steps of synthesis, as in a run, or one of another
    phase; on an accelerator ten of these, which works while the host prepares the next, as in a
    run. Its seconds are those of one step.

    Raises:
      ValueError: there is no such phase.
    """
    check_phase(phase)
    num_steps = synthesis_loop.STEPS_PER_DISPATCH if phase == "synthesis" else 1
    num_dispatches = 1 if is_on_cpu() else synthesis_loop.STEPS_PER_DISPATCH // num_steps
    settings, model, key = problem.settings, problem.model, jax.random.key(1)
    numbers = jnp.arange(len(problem.images), dtype=jnp.int32)
    if phase == "synthesis":
        spec = SynthesisSpec(settings.synthesis, settings.pixels)
        optimizer = synthesis.create_optimizer(settings.synthesis)
        state: Any = synthesis.init_state(optimizer, problem.images)
        batch: Any = SynthesisBatch(numbers, problem.labels, problem.params, problem.variables)
        program = synthesis_loop.SynthesisLoop(model, spec, problem.mesh).program()
        rest: tuple[Any, ...] = (batch, key, jnp.int32(num_steps))
    elif phase == "finetuning":
        tuning = FinetuningSpec(settings.finetuning, settings.pixels)
        loop = FinetuningLoop(model, tuning, len(numbers), key, problem.mesh)
        state = loop.init_state(problem.variables)
        batch = FinetuningBatch(numbers, problem.images, problem.params)
        program = loop.program()
        rest = (batch, key)
    else:
        state = None
        program = EvaluationLoop(Classification(), model, problem.mesh).program
        valid = jnp.ones(len(problem.images), bool)
        rest = (problem.variables, LabelledBatch(problem.images, problem.labels, valid))
    state = jax.tree.map(jnp.copy, state)  # its memory is reused
    arguments = rest if state is None else (state, *rest)
    started = time.perf_counter()
    lowered = program.lower(*arguments)
    trace_seconds = time.perf_counter() - started
    compiled = lowered.compile()
    seconds = time.perf_counter() - started

    def take_step() -> None:
        nonlocal state
        for _ in range(num_dispatches):
            if state is None:
                result = compiled(*rest)
            else:
                state, result = compiled(state, *rest)
        jax.block_until_ready((state, result))

    num_steps *= num_dispatches
    return timed(take_step, num_steps), Compiled(compiled, num_steps, seconds, trace_seconds)
