"""Times a step of synthesis, of fine-tuning and of evaluation, and the same steps in eager PyTorch.

    python -m benchmarks.steps --models=deit_t,deit_s,swin_t,vit_fashion --batch=8 --json=FILE

Runs on the CPU or on one GPU. On a CPU steps are interleaved, so that all see the same machine. On
a GPU, whose memory one implementation may fill, they come one after another, when all are prepared;
there it is ten steps between two waits for it, or one where one of PyTorch takes a tenth of a
second. Figures are medians after warm-up. Ours of synthesis are dispatched as a run does it, ten at
a time, and a tenth of that is one step. PyTorch, where it is installed (the `torch` extra), is
measured twice, as `benchmarks/torch_steps.py` says, for ViT and DeiT; Swin and DINOv2 have none of
that. Weights are random, and all see the same. Each implementation has a process of its own: the
allocator's settings, which are a part of ours, would make PyTorch faster too.

Peak memory on a CPU is that of the process with all it imports, JAX among them in PyTorch's, which
make the problem with it. On a GPU it is the most that the allocator of JAX or PyTorch had given
out. The matrix rate is the best of large products of the same dtype, before those processes start.
On a GPU float32 products are TF32's in all of them, as they are by XLA's default. Prints a Markdown
table; `--json` writes all figures. A GPU's programs take half a minute each to compile: several
runs with `--compile_only` and the same `--cache` compile them side by side, each choosing kernels
on a GPU that the others use too, and a run with that directory finds them there.
"""

import argparse
import contextlib
import functools
import importlib.util
import itertools
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import step_table
from benchmarks.problems import PHASES, Problem, check_phase, is_on_cpu, make_problem, make_step
from benchmarks.processes import (
    Served,
    Step,
    TimedStep,
    answer,
    interleave,
    parse_repeats,
    peak_of_process,
    serve,
    timed,
)
from benchmarks.products import count_product_flops, measure_product_rate
from maskaq_jax.devices import memory
from maskaq_jax.models import Model, vit
from maskaq_jax.synthesis import loop as synthesis_loop

# Seconds from which a step of PyTorch on a GPU is timed alone: a wait no longer shows in it.
_LONG_STEP = 0.1
_IMPLEMENTATIONS = ("ours", "torch", "torch_tuned")


def main() -> None:
    """Measures all phases of the models asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="deit_t,deit_s,swin_t,vit_fashion", help="of configs/")
    parser.add_argument("--batch", default="8", help="images a step, or several numbers")
    parser.add_argument("--bits", type=int, default=3, help="of weights and activations")
    parser.add_argument("--dtype", default="float32", help="of the models' layers; bfloat16; both")
    parser.add_argument("--repeats", type=parse_repeats, default=10, help="timed steps, of each")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument(
        "--keep_memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether ours keep what a step frees, as a run does",
    )
    # Absolute: JAX has programs depend on how it is spelt.
    parser.add_argument("--cache", type=os.path.abspath, help="directory that keeps programs")
    parser.add_argument("--compile_only", action="store_true", help="only fill --cache")
    parser.add_argument("--json", type=Path, help="file of all figures")
    parser.add_argument("--serve", choices=_IMPLEMENTATIONS, help="take a step for a line of input")
    options = parser.parse_args()
    try:
        for phase in options.phases.split(","):
            check_phase(phase)
    except ValueError as error:
        parser.error(str(error))
    if options.compile_only and not options.cache:
        parser.error("--compile_only fills a --cache, and none is named")
    if options.keep_memory and options.serve in (None, "ours"):
        memory.keep_freed_memory()
    # Processes share a GPU: JAX would take most of its memory at once.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if options.serve:
        answer(*make_served_step(options))
        return
    if not is_on_cpu() and (jax.default_backend() != "gpu" or jax.device_count() > 1):
        parser.error("this takes the CPU or one GPU: CUDA_VISIBLE_DEVICES=0 leaves others out")
    memory.spare_loaded_objects()  # as a run does
    with contextlib.ExitStack() as stack:
        cache = options.cache or stack.enter_context(tempfile.TemporaryDirectory())
        # The processes that take the steps find here what is compiled: a compiler needs memory.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        memory.keep_on_disk(cache)
        if options.compile_only:
            for row in list_rows(options):
                compile_row(*row, options.bits)
        else:
            benchmark_all(options)


def list_rows(options: argparse.Namespace) -> list[tuple[str, str, int, str]]:
    """Model, dtype, batch and phase of each row of the table."""
    lists = (getattr(options, name).split(",") for name in ("models", "dtype", "batch", "phases"))
    return [
        (name, dtype, int(batch), phase) for name, dtype, batch, phase in itertools.product(*lists)
    ]


def compile_row(name: str, dtype: str, batch: int, phase: str, bits: int) -> None:
    """Puts a row's program into the cache, and says what it took."""
    _, compiled = make_step(make_problem(name, batch, bits, dtype=dtype), phase)
    print(f"{name}, {dtype}, batch {batch}, {phase}: {compiled.seconds:.3g} s", flush=True)


def benchmark_all(options: argparse.Namespace) -> None:
    """Measures, and prints and stores as it goes."""
    if not is_torch_installed():
        print("ours alone: pip install '.[torch]' for those of PyTorch", file=sys.stderr)
    print(step_table.HEADER)
    records = []
    for row in list_rows(options):
        record = benchmark(*row, options)
        records.append(record)
        print(step_table.format_row(record), flush=True)
        if options.json:
            options.json.write_text(json.dumps(records, indent=2) + "\n")


def benchmark(
    name: str, dtype: str, batch: int, phase: str, options: argparse.Namespace
) -> dict[str, Any]:
    """All figures of a phase of a model."""
    rate = measure_product_rate(dtype)
    problem = make_problem(name, batch, options.bits, dtype=dtype)
    _, compiled = make_step(problem, phase)
    jax.clear_caches()
    # From the cache on disk, as the next run does.
    _, cached = make_step(problem, phase)
    kinds = implementations(problem.model) if is_torch_installed() else _IMPLEMENTATIONS[:1]
    commands = {
        kind: (
            *("-m", "benchmarks.steps", f"--models={name}", f"--phases={phase}", f"--serve={kind}"),
            *(f"--batch={batch}", f"--bits={options.bits}", f"--dtype={dtype}"),
            "--keep_memory" if options.keep_memory else "--no-keep_memory",
        )
        for kind in kinds
    }
    seconds, served = measure_all(commands, options.repeats, side_by_side=is_on_cpu())
    peaks = {kind: served[kind].peak_bytes for kind in seconds}
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    products = count_product_flops(problem.model, phase) * batch
    num_parts = 1
    if phase == "synthesis":
        num_parts = synthesis_loop.choose_num_parts(
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
        "implementations": list(commands),
    }


def measure_all(
    commands: Mapping[str, Sequence[str]], repeats: int, side_by_side: bool
) -> tuple[dict[str, list[float]], dict[str, Served]]:
    """Measures the steps that processes serve.

    Args:
      commands: arguments of Python for each process, by name.
      repeats: steps that count, of each.
      side_by_side: whether they take steps in turn; else a process takes its first when all are
        ready and the one before it has ended, so that it has the device for itself, and its memory
        but for what the others have prepared.

    Returns:
      Seconds of each, without those that memory does not suffice for; all processes, ended.
    """
    groups = [tuple(commands)] if side_by_side else [(kind,) for kind in commands]
    seconds: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        served = {kind: stack.enter_context(serve(*commands[kind])) for kind in commands}
        for one in served.values():
            one.wait()
        for group in groups:
            seconds |= interleave({kind: served[kind].step for kind in group}, repeats)
            for kind in group:
                served[kind].end()
    fitting = {kind: values for kind, values in seconds.items() if not any(map(math.isnan, values))}
    return fitting, served


def implementations(model: Model) -> tuple[str, ...]:
    """What there is of a model's steps: PyTorch's are of a plain ViT or DeiT."""
    has_torch = (
        isinstance(model, vit.VisionTransformer)
        and model.num_classes
        and model.init_values is None
        and not model.distilled
    )
    return _IMPLEMENTATIONS if has_torch else _IMPLEMENTATIONS[:1]


def is_torch_installed() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def make_served_step(options: argparse.Namespace) -> tuple[TimedStep, Callable[[], int]]:
    """The step of the implementation that this process serves, and what tells its peak memory."""
    problem = make_problem(options.models, int(options.batch), options.bits, dtype=options.dtype)
    if options.serve == "ours":
        step, _ = make_step(problem, options.phases)
        return step, peak_of_process if is_on_cpu() else _peak_of_gpu
    if is_on_cpu():
        take_step = make_torch_step(problem, options.phases, options.serve, "cpu")
        return timed(take_step), peak_of_process
    import torch

    torch.set_float32_matmul_precision("high")
    take_step = make_torch_step(problem, options.phases, options.serve, "cuda")
    return time_on_gpu(take_step), torch.cuda.max_memory_allocated


def time_on_gpu(take_step: Step) -> TimedStep:
    """A step of PyTorch with its time taken, after a first one that says how."""
    import torch

    def take_steps(count: int) -> None:
        for _ in range(count):
            take_step()
        torch.cuda.synchronize()

    count = 0

    def time_steps() -> float:
        nonlocal count
        if count:
            return timed(functools.partial(take_steps, count), count)()
        take_steps(1)
        one = timed(functools.partial(take_steps, 1))()
        count = 1 if one > _LONG_STEP else synthesis_loop.STEPS_PER_DISPATCH
        return one

    return time_steps


def make_torch_step(problem: Problem, phase: str, kind: str, device: str) -> Step:
    """The same step in eager PyTorch, in the version called `kind`."""
    import torch

    from benchmarks import torch_model, torch_steps

    version = {"torch": torch_steps.ORIGINAL, "torch_tuned": torch_steps.TUNED}[kind]
    model, bits = problem.model, problem.settings.quantization.weight_bits
    if not isinstance(model, vit.VisionTransformer):
        raise TypeError(f"PyTorch's steps are of a ViT or DeiT, not of a {type(model).__name__}")
    dtype = getattr(torch, jnp.dtype(model.dtype).name)
    # Fine-tuning trains Q in both versions, and no version needs P's gradients there.
    is_frozen = version.is_frozen
    params = torch_model.load(
        problem.params, {}, None, is_frozen or phase != "synthesis", dtype, device
    )
    is_q_frozen = is_frozen and phase != "finetuning"
    variables = torch_model.load(
        problem.params, problem.variables["quant"], bits, is_q_frozen, dtype, device
    )
    images = np.asarray(problem.images)
    if phase == "synthesis":
        low, high = problem.settings.pixels.bounds()
        take_step, _ = torch_steps.make_synthesis_step(
            model,
            version,
            params,
            variables,
            images,
            np.asarray(problem.labels),
            bounds=(np.asarray(low), np.asarray(high)),
            num_steps=problem.settings.synthesis.num_steps,
        )
        return take_step
    pixels = torch_steps.load_images(images, params.device)
    if phase == "finetuning":
        return torch_steps.make_finetuning_step(model, version, params, variables, lambda: pixels)

    def classify() -> None:
        torch_steps.classify(model, variables, pixels)

    return classify


def _peak_of_gpu() -> int:
    return jax.devices()[0].memory_stats()["peak_bytes_in_use"]


if __name__ == "__main__":
    main()
