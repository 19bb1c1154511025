"""Times a step of synthesis, of fine-tuning and of evaluation, and the same steps in eager PyTorch.

    python -m benchmarks.steps --models=deit_t,deit_s,swin_t,vit_fashion --batch=8 --json=FILE

On a CPU steps are interleaved, so that all see the same machine; on an accelerator, whose memory
one of them may fill, they come one after another, ten of each between two waits for the device.
Figures are medians after warm-up. Ours of synthesis are dispatched as a run does it, ten at a time,
and a tenth of that is one step. PyTorch (the `torch` extra) is measured twice, as
`benchmarks/torch_steps.py` says, for ViT and DeiT; a Swin has none of that. Weights are random, and
all see the same. Each implementation has a process of its own: the allocator's settings, which are
a part of ours, would make PyTorch faster too. Peak memory is that of its process, with all it
imports, where PyTorch's makes the problem in JAX too; on an accelerator it is what its allocator
gave out there. The matrix rate is the best of large products of the same dtype, before those
processes start. On a GPU float32 products are TF32's in all of them, as they are by XLA's default.
Prints a Markdown table; `--json` writes all figures.
"""

import argparse
import contextlib
import functools
import itertools
import json
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.problems import PHASES, Problem, make_problem, make_step
from benchmarks.processes import (
    Served,
    Step,
    TimedStep,
    answer,
    interleave,
    peak_of_process,
    serve,
    timed,
)
from benchmarks.products import count_products, measure_product_rate
from maskaq_jax import memory, phases, programs

# Seconds, of PyTorch on an accelerator.
_LONG_STEP = 0.1
_IMPLEMENTATIONS = ("ours", "torch", "torch_tuned")


def main() -> None:
    """Measures all phases of the models asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="deit_t,deit_s,swin_t,vit_fashion", help="of configs/")
    parser.add_argument("--batch", default="8", help="images a step, or several numbers")
    parser.add_argument("--bits", type=int, default=3, help="of weights and activations")
    parser.add_argument("--dtype", default="float32", help="of the models' layers; bfloat16; both")
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
    # Processes share an accelerator: JAX would take most of its memory at once.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if options.serve:
        answer(*make_served_step(options))
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
    lists = (getattr(options, name).split(",") for name in ("models", "dtype", "batch", "phases"))
    for name, dtype, batch, phase in itertools.product(*lists):
        record = benchmark(name, dtype, int(batch), phase, options)
        records.append(record)
        print(format_row(record), flush=True)
        if options.json:
            options.json.write_text(json.dumps(records, indent=2) + "\n")


def benchmark(
    name: str, dtype: str, batch: int, phase: str, options: argparse.Namespace
) -> dict[str, Any]:
    """All figures of a phase of a model."""

    def start(kind: str) -> Served:
        arguments = (
            *("-m", "benchmarks.steps", f"--models={name}", f"--phases={phase}", f"--serve={kind}"),
            *(f"--batch={batch}", f"--bits={options.bits}", f"--dtype={dtype}"),
            "--keep_memory" if options.keep_memory else "--no-keep_memory",
        )
        return stack.enter_context(serve(*arguments))

    rate = measure_product_rate(dtype)
    with contextlib.ExitStack() as stack:
        # On an accelerator's machine PyTorch's get ready while ours is compiled: there are cores.
        is_on_cpu = jax.default_backend() == "cpu"
        early = {} if is_on_cpu else {kind: start(kind) for kind in implementations(name)[1:]}
        problem = make_problem(name, batch, options.bits, dtype=dtype)
        _, compiled = make_step(problem, phase)
        jax.clear_caches()
        # From the cache on disk, as the next run does.
        _, cached = make_step(problem, phase)
        served = {kind: early.get(kind) or start(kind) for kind in implementations(name)}
        seconds = measure_all(served, options.repeats, side_by_side=is_on_cpu)
    peaks = {kind: served[kind].peak_bytes for kind in seconds}
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    products = count_products(problem.model, phase) * batch
    num_parts = 1
    if phase == "synthesis":
        num_parts = programs.choose_num_parts(
            problem.model, batch // problem.mesh.size, problem.mesh
        )
    ours, torch, tuned = (medians.get(kind) for kind in _IMPLEMENTATIONS)
    return {
        "model": name,
        "batch": batch,
        "phase": phase,
        "dtype": dtype,
        "seconds": ours,
        "seconds_spread": ours and statistics.stdev(seconds["ours"]),
        "torch_seconds": torch,
        "torch_tuned_seconds": tuned,
        "ratio": ours and torch and torch / ours,
        "ratio_tuned": ours and tuned and tuned / ours,
        "compile_seconds": compiled.seconds,
        "cached_compile_seconds": cached.seconds,
        # A part of the former; about as long the first time.
        "trace_seconds": cached.trace_seconds,
        "peak_bytes": peaks.get("ours"),
        "torch_peak_bytes": peaks.get("torch"),
        "torch_tuned_peak_bytes": peaks.get("torch_tuned"),
        # XLA counts what a loop repeats once. What is not in parts is a hundredth of it at most.
        "flops": compiled.program.cost_analysis()["flops"] * num_parts,
        "product_flops": products,
        "matmul_flops_per_second": rate,
        "utilization": ours and products / ours / rate,
        "device": jax.devices()[0].device_kind,
    }


def measure_all(
    served: Mapping[str, Served], repeats: int, side_by_side: bool
) -> dict[str, list[float]]:
    """Seconds of the steps that processes serve, without those that memory does not suffice for.

    Args:
      served: the processes by name; they have ended afterwards.
      repeats: steps that count, of each.
      side_by_side: whether they take steps in turn, instead of one process after another.
    """
    groups = [tuple(served)] if side_by_side else [(kind,) for kind in served]
    seconds: dict[str, list[float]] = {}
    for group in groups:
        seconds |= interleave({kind: served[kind].step for kind in group}, repeats)
        for kind in group:
            served[kind].end()
    return {kind: values for kind, values in seconds.items() if not any(map(math.isnan, values))}


def implementations(name: str) -> tuple[str, ...]:
    """What there is of the steps of a config's model: of a Swin only ours."""
    return _IMPLEMENTATIONS[:1] if name.startswith("swin") else _IMPLEMENTATIONS


def make_served_step(options: argparse.Namespace) -> tuple[TimedStep, Callable[[], int]]:
    """The step of the implementation that this process serves, and what tells its peak memory."""
    problem = make_problem(options.models, int(options.batch), options.bits, dtype=options.dtype)
    is_on_cpu = jax.default_backend() == "cpu"
    if options.serve == "ours":
        step, _ = make_step(problem, options.phases)
        return step, peak_of_process if is_on_cpu else _peak_of_accelerator
    import torch

    if is_on_cpu:
        take_step = make_torch_step(problem, options.phases, options.serve, "cpu")
        return timed(take_step), peak_of_process
    torch.set_float32_matmul_precision("high")
    take_step = make_torch_step(problem, options.phases, options.serve, "cuda")

    def take_steps(count: int) -> None:
        for _ in range(count):
            take_step()
        torch.cuda.synchronize()

    def time_steps() -> float:
        # What a wait takes does not show in long steps, of which ten would take too long.
        one = timed(functools.partial(take_steps, 1))()
        if one > _LONG_STEP:
            return one
        return timed(
            functools.partial(take_steps, phases.STEPS_PER_DISPATCH), phases.STEPS_PER_DISPATCH
        )()

    return time_steps, torch.cuda.max_memory_allocated


def make_torch_step(problem: Problem, phase: str, kind: str, device: str) -> Step:
    """The same step in eager PyTorch, in the version called `kind`."""
    import torch

    from benchmarks import torch_steps

    version = {"torch": torch_steps.ORIGINAL, "torch_tuned": torch_steps.TUNED}[kind]
    model, bits = problem.model, problem.settings.quantization.weight_bits
    dtype = getattr(torch, jnp.dtype(model.dtype).name)
    # Fine-tuning trains Q in both versions, and no version needs P's gradients there.
    is_frozen = version.is_frozen
    params = torch_steps.load(
        problem.params, {}, None, is_frozen or phase != "synthesis", dtype, device
    )
    is_q_frozen = is_frozen and phase != "finetuning"
    variables = torch_steps.load(
        problem.params, problem.variables["quant"], bits, is_q_frozen, dtype, device
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


def _peak_of_accelerator() -> int:
    return jax.devices()[0].memory_stats()["peak_bytes_in_use"]


def format_row(record: dict[str, Any]) -> str:
    """A record as a row of the table."""

    def show(value: float | None, unit: str, factor: float = 1.0) -> str:
        return lacking if value is None else f"{factor * value:.3g}{unit}"

    lacking = "no memory" if len(implementations(record["model"])) > 1 else ""

    return (
        f"| {record['model']}, {record['dtype']}, batch {record['batch']} | {record['phase']} "
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
