"""Times a step of synthesis, of fine-tuning and of evaluation, and the same steps in eager PyTorch.

    python -m benchmarks.steps --models=deit_t,deit_s,swin_t,vit_fashion --batch=8 --json=FILE

Steps are interleaved, so that all see the same machine; figures are medians after warm-up. Ours of
synthesis are dispatched as a run does it, ten at a time, and a tenth of that is one step. PyTorch
(the `torch` extra) is measured twice, as `benchmarks/torch_steps.py` says, for ViT and DeiT; a Swin
has none of that. Weights are random, and all see the same. Each implementation has a process of its
own: the allocator's settings, which are a part of ours, would make PyTorch faster too. Peak memory
is that of its process, with all it imports; PyTorch's makes the problem in JAX too. The matrix rate
is the best of large products, before those processes start. Prints a Markdown table; `--json`
writes all figures.
"""

import argparse
import functools
import importlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from benchmarks.processes import Step, TimedStep, answer, serve, timed
from maskaq_jax import (
    calibration,
    finetune,
    memory,
    parallel,
    phases,
    programs,
    synthesis,
    synthesis_terms,
)
from maskaq_jax import config as config_lib
from maskaq_jax.config import Config
from maskaq_jax.models import Model, full_precision

PHASES = ("synthesis", "finetuning", "evaluation")
# Of matrices large enough to be at the machine's rate.
_MATRIX_SIDE = 1536
_IMPLEMENTATIONS = ("ours", "torch", "torch_tuned")


def main() -> None:
    """Measures all phases of the models asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="deit_t,deit_s,swin_t,vit_fashion", help="of configs/")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--bits", type=int, default=3, help="of weights and activations")
    parser.add_argument("--dtype", default="float32", help="of our models' layers, or bfloat16")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of each kind")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument(
        "--keep_memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether ours keep what a step frees, as a run does",
    )
    parser.add_argument("--json", type=Path, help="file of all figures")
    parser.add_argument("--serve", choices=_IMPLEMENTATIONS, help="take a step for a line of input")
    options = parser.parse_args()
    if options.keep_memory and options.serve in (None, "ours"):
        memory.keep_freed_memory()
    if options.serve:
        answer(make_served_step(options))
        return
    memory.spare_loaded_objects()  # as a run does
    with tempfile.TemporaryDirectory() as cache:
        # The processes that take the steps find here what is compiled: a compiler needs memory.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        programs.keep_on_disk(Path(cache))
        benchmark_all(options)


def benchmark_all(options: argparse.Namespace) -> None:
    """Measures, and prints and stores as it goes."""
    print(
        "| model | step | ours | PyTorch | tuned | ratios | peak memory, PyTorch's "
        "| compiled, from the cache; traced | share of the matrix rate |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    records = []
    for name in options.models.split(","):
        for phase in options.phases.split(","):
            record = benchmark(name, phase, options)
            records.append(record)
            print(format_row(record), flush=True)
            if options.json:
                options.json.write_text(json.dumps(records, indent=2) + "\n")


def benchmark(name: str, phase: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of a phase of a model."""
    rate = measure_product_rate()
    problem = make_problem(name, options.batch, options.bits, dtype=options.dtype)
    _, compiled = make_step(problem, phase)
    jax.clear_caches()
    # From the cache on disk, as the next run does.
    _, cached = make_step(problem, phase)
    with ExitStack() as stack:
        served = {
            kind: stack.enter_context(serve(*arguments_of(name, phase, kind, options)))
            for kind in implementations(problem.model)
        }
        seconds = interleave({kind: one.step for kind, one in served.items()}, options.repeats)
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    peaks = {kind: one.peak_bytes for kind, one in served.items()}
    products = count_products(problem.model, phase) * options.batch
    num_parts = 1
    if phase == "synthesis":
        num_parts = programs.choose_num_parts(
            problem.model, options.batch // problem.mesh.size, problem.mesh
        )
    torch, tuned = medians.get("torch"), medians.get("torch_tuned")
    return {
        "model": name,
        "batch": options.batch,
        "phase": phase,
        "dtype": options.dtype,
        "seconds": medians["ours"],
        "seconds_spread": statistics.stdev(seconds["ours"]),
        "torch_seconds": torch,
        "torch_tuned_seconds": tuned,
        "ratio": torch and torch / medians["ours"],
        "ratio_tuned": tuned and tuned / medians["ours"],
        "compile_seconds": compiled.seconds,
        "cached_compile_seconds": cached.seconds,
        # A part of the former; about as long the first time.
        "trace_seconds": cached.trace_seconds,
        "peak_bytes": peaks["ours"],
        "torch_peak_bytes": peaks.get("torch"),
        "torch_tuned_peak_bytes": peaks.get("torch_tuned"),
        # XLA counts what a loop repeats once. What is not in parts is a hundredth of it at most.
        "flops": compiled.program.cost_analysis()["flops"] * num_parts,
        "product_flops": products,
        "matmul_flops_per_second": rate,
        "utilization": products / medians["ours"] / rate,
        "device": jax.devices()[0].device_kind,
    }


class Compiled(NamedTuple):
    """A step's program, the seconds it took to have, and those of tracing and lowering in them."""

    program: Any
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

    Weights and images are random; the quantizers are calibrated on these images.
    """
    module = importlib.import_module(f"configs.{name}")
    preset = ",preset=paper" if "fashion" in name else ""
    settings = config_lib.validated(module.get_config(f"w={bits},a={bits}{preset}"))
    model = config_lib.create_model(settings, **arguments)
    key = jax.random.key(0)
    images = jax.random.normal(key, (batch_size, *model.input_shape))
    params = jax.jit(full_precision(model).init)(key, images)["params"]
    quant = jax.jit(functools.partial(calibration.calibrate, model))(params, images)
    return Problem(
        settings=settings,
        model=model,
        params=params,
        variables={"params": params, "quant": quant},
        images=images,
        labels=jnp.arange(batch_size, dtype=jnp.int32) % max(1, model.num_classes),
        mesh=parallel.make_mesh(jax.devices()),
    )


def steps_per_dispatch(phase: str) -> int:
    """Steps that a run takes between two returns to the host."""
    return phases.STEPS_PER_DISPATCH if phase == "synthesis" else 1


def make_step(problem: Problem, phase: str) -> tuple[TimedStep, Compiled]:
    """A step of ours, and its program."""
    num_steps = steps_per_dispatch(phase)
    settings, model, key = problem.settings, problem.model, jax.random.key(1)
    numbers = jnp.arange(len(problem.images), dtype=jnp.int32)
    if phase == "synthesis":
        spec = synthesis.Spec(settings.synthesis, settings.pixels)
        optimizer = synthesis.create_optimizer(settings.synthesis)
        state: Any = synthesis.init_state(optimizer, problem.images)
        batch: Any = synthesis_terms.Batch(
            numbers, problem.labels, problem.params, problem.variables
        )
        program = programs.map_synthesis(model, spec, problem.mesh)
        rest: tuple[Any, ...] = (batch, key, jnp.int32(num_steps))
    elif phase == "finetuning":
        tuning = finetune.Spec(settings.finetuning, settings.pixels)
        trainer = finetune.create_optimizer(settings.finetuning, 1000)
        state = finetune.init_state(trainer, problem.variables)
        batch = finetune.Batch(numbers, problem.images, problem.params)
        program = programs.map_finetuning(model, tuning, 1000, problem.mesh)
        rest = (batch, key)
    else:
        state = None
        program = programs.map_evaluation(model, problem.mesh)
        valid = jnp.ones(len(problem.images), bool)
        rest = (problem.variables, problem.images, problem.labels, valid)
    state = jax.tree.map(jnp.copy, state)  # its memory is reused
    arguments = rest if state is None else (state, *rest)
    started = time.perf_counter()
    lowered = program.lower(*arguments)
    trace_seconds = time.perf_counter() - started
    compiled = lowered.compile()
    seconds = time.perf_counter() - started

    def take_step() -> None:
        nonlocal state
        if state is None:
            jax.block_until_ready(compiled(*rest))
        else:
            state, _ = jax.block_until_ready(compiled(state, *rest))

    return timed(take_step, num_steps), Compiled(compiled, seconds, trace_seconds)


def implementations(model: Model) -> tuple[str, ...]:
    """What there is of a model's steps: of a Swin only ours."""
    return _IMPLEMENTATIONS if model.num_prefix_tokens else _IMPLEMENTATIONS[:1]


def arguments_of(name: str, phase: str, kind: str, options: argparse.Namespace) -> tuple[str, ...]:
    """Of the process that serves an implementation's steps."""
    return (
        *("-m", "benchmarks.steps", f"--models={name}", f"--phases={phase}", f"--serve={kind}"),
        *(f"--batch={options.batch}", f"--bits={options.bits}", f"--dtype={options.dtype}"),
        "--keep_memory" if options.keep_memory else "--no-keep_memory",
    )


def make_torch_step(problem: Problem, phase: str, kind: str) -> Step:
    """The same step in eager PyTorch, in the version called `kind`."""
    from benchmarks import torch_steps

    version = {"torch": torch_steps.ORIGINAL, "torch_tuned": torch_steps.TUNED}[kind]
    model, bits = problem.model, problem.settings.quantization.weight_bits
    # Fine-tuning trains Q in both versions, and no version needs P's gradients there.
    is_frozen = version.is_frozen
    params = torch_steps.load(problem.params, {}, None, is_frozen or phase != "synthesis")
    variables = torch_steps.load(
        problem.params, problem.variables["quant"], bits, is_frozen and phase != "finetuning"
    )
    images = np.asarray(problem.images)
    if phase == "synthesis":
        low, high = problem.settings.pixels.bounds()
        return torch_steps.make_synthesis_step(
            model,
            version,
            params,
            variables,
            images,
            np.asarray(problem.labels),
            bounds=(np.asarray(low), np.asarray(high)),
            num_steps=problem.settings.synthesis.num_steps,
        )
    if phase == "finetuning":
        return torch_steps.make_finetuning_step(model, version, params, variables, images)
    return torch_steps.make_evaluation_step(model, variables, images)


def make_served_step(options: argparse.Namespace) -> TimedStep:
    """The step of the implementation that this process serves."""
    problem = make_problem(options.models, options.batch, options.bits, dtype=options.dtype)
    if options.serve == "ours":
        return make_step(problem, options.phases)[0]
    return timed(make_torch_step(problem, options.phases, options.serve))


def measure_product_rate() -> float:
    """Operations a second that large matrix products reach while nothing else runs."""
    matrix = jax.random.normal(jax.random.key(0), (_MATRIX_SIDE, _MATRIX_SIDE))
    multiply = jax.jit(jnp.matmul)
    step = timed(lambda: jax.block_until_ready(multiply(matrix, matrix)))
    return 2 * _MATRIX_SIDE**3 / min(interleave({"product": step}, 20)["product"])


def interleave(steps: Mapping[str, TimedStep], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step, `repeats` times in turn, after two that don't count."""
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in range(repeats + 2):
        for kind, step in steps.items():
            taken = step()
            if number >= 2:
                seconds[kind].append(taken)
    return seconds


def count_products(model: Model, phase: str) -> float:
    """Operations an image's matrix products take, counted by hand on the traced forward pass."""
    model_p = full_precision(model)
    images = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)
    shapes = jax.eval_shape(model_p.init, jax.random.key(0), images)
    jaxpr = jax.make_jaxpr(model_p.apply)(shapes, images)
    dense = attention = 0.0
    for flops, is_batched in _products(jaxpr.jaxpr):
        if is_batched:
            attention += flops
        else:
            dense += flops
    if phase == "synthesis":  # both models, forward and to the images
        return 2 * (2 * dense + 3 * attention)
    if phase == "finetuning":  # P forward; Q forward, and to its inputs and weights
        return 4 * dense + 4 * attention
    return dense + attention


def _products(jaxpr: Any) -> Any:
    """Operations of each product, and whether it is one of activations alone."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), (batched, _) = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            length = np.prod([left[axis] for axis in contracted])
            yield 2.0 * length * np.prod(equation.outvars[0].aval.shape), bool(batched)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _products(inner)


def format_row(record: dict[str, Any]) -> str:
    """A record as a row of the table."""

    def show(value: float | None, unit: str, factor: float = 1.0) -> str:
        return "" if value is None else f"{factor * value:.3g}{unit}"

    return (
        f"| {record['model']}, batch {record['batch']} | {record['phase']} "
        f"| {show(record['seconds'], ' s')} ± {show(record['seconds_spread'], '')} "
        f"| {show(record['torch_seconds'], ' s')} | {show(record['torch_tuned_seconds'], ' s')} "
        f"| {show(record['ratio'], '')}, {show(record['ratio_tuned'], '')} "
        f"| {show(record['peak_bytes'], ' GB', 1e-9)}, "
        f"{show(record['torch_peak_bytes'], ' GB', 1e-9)} "
        f"| {show(record['compile_seconds'], ' s')}, "
        f"{show(record['cached_compile_seconds'], ' s')}; {show(record['trace_seconds'], ' s')} "
        f"| {show(record['utilization'], '%', 100)} |"
    )


if __name__ == "__main__":
    main()
