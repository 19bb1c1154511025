"""Integer files beside float32 ones: size, CPU time, memory, and agreement with the low-bit model.

    python -m benchmarks.deploy --json=deploy.json
    python -m benchmarks.deploy_chart --json=deploy.json --out=docs/deploy.png

Weights are random and quantizers calibrated on noise: time and size depend on neither. Each file is
run in each runtime by a process of its own on one thread, all in turn, and so are float32 models in
PyTorch and JAX; times are medians of the CPU time that a process takes. `ratio` is float32's time
over the file's in the same runtime, `torch_ratio` and `jax_ratio` that of PyTorch's and JAX's
float32. Agreement is the root mean square difference of logits, beside that of JAX with itself
where its input is scaled by 1 + 2^-22. Prints a Markdown table.
"""

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import processes

MODELS = (
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
    "deit_base_patch16_224",
    "swin_tiny_patch4_window7_224",
)
BITS = ("8x8", "4x8", "4x4", "3x3")
# The package that each takes; those of FRAMEWORKS run no file, but the float32 model.
RUNTIMES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "torch": "transformers",
    "jax": "jax",
}
FRAMEWORKS = ("torch", "jax")
COLUMNS = (
    "| model | bits | size | over bits/32 | runtime | batch | ms | ratio | PyTorch's | JAX's "
    "| peak MB | rms | JAX's own |"
)
# With these OpenVINO computes what a file says: by itself it takes bfloat16 where a CPU has AMX,
# and rounds what products of 8-bit weights take once more.
EXACT_OPENVINO = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
FLOAT = (32, 32)
_NUM_CALIBRATED = 4
# JAX, on one thread as the others are.
_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


class File(NamedTuple):
    """A model that was written.

    Attributes:
      path: of the file.
      bits: of weights and activations.
      size: in bytes.
      seconds: that its export took.
      rms: of the logits' difference from the model's own.
      own_rms: of the model's own difference where its input is scaled by 1 + 2^-22.
    """

    path: Path
    bits: tuple[int, int]
    size: int
    seconds: float
    rms: float
    own_rms: float


class Taken(NamedTuple):
    """What passes took.

    Attributes:
      seconds: median of CPU time.
      peak_bytes: of the process, from its start.
    """

    seconds: float
    peak_bytes: int


# Runtime and bits.
Kind = tuple[str, tuple[int, int]]


def main() -> None:
    """Measures all that is asked for, and prints it."""
    options = _parser().parse_args()
    if options.serve:
        _serve(options.serve, options.runtimes[0], options.batches[0])
        return
    records: list[dict[str, Any]] = []
    print(_cpu(), f"\n\n{COLUMNS}\n{'|---' * (COLUMNS.count('|') - 1)}|", flush=True)
    for model in options.models:
        with tempfile.TemporaryDirectory() as directory:
            files = list(_write_files(model, options.bits, options.compared, Path(directory)))
            for batch in options.batches:
                taken = _measure(model, files, options.runtimes, batch, options.repeats)
                rows = to_records(model, files, taken, batch)
                for row in rows:
                    print(to_line(row), flush=True)
                records += rows
                if options.json:
                    options.json.write_text(json.dumps(records, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])

    def separated(text: str) -> list[str]:
        return text.split(",")

    parser.add_argument("--models", type=separated, default=MODELS, help="names of create_model")
    parser.add_argument("--bits", type=separated, default=BITS, help="weights x activations")
    parser.add_argument(
        "--batches", type=lambda text: [int(one) for one in text.split(",")], default=(1, 8)
    )
    parser.add_argument(
        "--runtimes",
        type=_parse_runtimes,
        default=[name for name, package in RUNTIMES.items() if util.find_spec(package)],
        help=f"of {', '.join(RUNTIMES)}; those that are installed if left out",
    )
    # So many that some code of some image lies beside a tie, in JAX alone too.
    parser.add_argument("--compared", type=int, default=32, help="images of the agreement")
    parser.add_argument("--repeats", type=processes.parse_repeats, default=15, help="timed passes")
    parser.add_argument("--json", type=Path, help="file for the records")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    return parser


def _parse_runtimes(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in RUNTIMES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(RUNTIMES)}")
        if util.find_spec(RUNTIMES[name]) is None:
            raise argparse.ArgumentTypeError(f"{name} takes `pip install {RUNTIMES[name]}`")
    return names


def _write_files(
    name: str, bits: Sequence[str], num_compared: int, directory: Path
) -> Iterator[File]:
    """The model in float32, and at each of the bits."""
    import jax

    from maskaq_jax import calibration
    from maskaq_jax.data.preprocessing import Preprocessing
    from maskaq_jax.export import agreement, onnx
    from maskaq_jax.images.pixels import Pixels
    from maskaq_jax.models import Quantization, create_model

    float_model = create_model(name)
    shape = (num_compared, *float_model.input_shape)
    images = jax.random.normal(jax.random.key(0), shape)
    params = jax.jit(float_model.init)(jax.random.key(1), images[:1])["params"]
    pairs = [tuple(map(int, text.split("x"))) for text in bits]
    for weight_bits, activation_bits in [FLOAT, *pairs]:
        model, variables = float_model, {"params": params}
        if (weight_bits, activation_bits) != FLOAT:
            model = float_model.clone(quantization=Quantization(weight_bits, activation_bits))
            calibrated = images[:_NUM_CALIBRATED]
            variables["quant"] = calibration.calibrate(model, params, calibrated)
        path = directory / f"{weight_bits}x{activation_bits}.onnx"
        started = time.perf_counter()
        onnx.write_onnx(path, model, variables, Pixels(), Preprocessing())
        seconds = time.perf_counter() - started
        own = agreement.outputs_of(model, variables)
        file = agreement.open_onnx(path.read_bytes(), Pixels())
        expected, moved, found = (
            # Detectors and models of maps have several outputs.
            np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(outputs(np.asarray(images)))])
            for outputs in (own, agreement.nudged(own), file)
        )
        yield File(
            path,
            (weight_bits, activation_bits),
            path.stat().st_size,
            seconds,
            *(float(np.sqrt(np.square(other - expected).mean())) for other in (found, moved)),
        )


def _measure(
    model: str, files: Sequence[File], runtimes: Sequence[str], batch: int, repeats: int
) -> dict[Kind, Taken]:
    """Passes of every file in every runtime, all in turn."""
    kinds = {
        f"{runtime} {file.bits}": (runtime, file)
        for runtime in runtimes
        for file in (files[:1] if runtime in FRAMEWORKS else files)
    }
    with contextlib.ExitStack() as stack:
        served = {
            name: stack.enter_context(
                processes.serve(
                    *("-m", "benchmarks.deploy", f"--serve={file.path}", f"--models={model}"),
                    *(f"--runtimes={runtime}", f"--batches={batch}"),
                )
            )
            for name, (runtime, file) in kinds.items()
        }
        for one in served.values():
            one.wait()
        seconds = processes.interleave({name: one.step for name, one in served.items()}, repeats)
        return {
            (runtime, file.bits): Taken(statistics.median(seconds[name]), served[name].peak_bytes)
            for name, (runtime, file) in kinds.items()
        }


def to_records(
    model: str, files: Sequence[File], taken: Mapping[Kind, Taken], batch: int
) -> list[dict[str, Any]]:
    """What is kept of a model.

    Args:
      model: its name.
      files: that of float32 first.
      taken: of each file in each runtime, and of float32 in the frameworks.
      batch: images a pass.
    """
    by_bits = {file.bits: file for file in files}
    # Float32's in a framework; none where it was not measured.
    wholes = {name: taken[name, FLOAT].seconds for name in FRAMEWORKS if (name, FLOAT) in taken}
    return [
        {
            "model": model,
            "weight_bits": bits[0],
            "activation_bits": bits[1],
            "runtime": runtime,
            "batch": batch,
            "ratio": taken[runtime, FLOAT].seconds / one.seconds,
            "torch_ratio": wholes["torch"] / one.seconds if "torch" in wholes else None,
            "jax_ratio": wholes["jax"] / one.seconds if "jax" in wholes else None,
            "seconds": one.seconds,
            "size": by_bits[bits].size,
            "size_ratio": by_bits[bits].size / files[0].size * 32 / bits[0],
            "peak_bytes": one.peak_bytes,
            "export_seconds": by_bits[bits].seconds,
            "rms": by_bits[bits].rms,
            "own_rms": by_bits[bits].own_rms,
            "cpu": _cpu(),
        }
        for (runtime, bits), one in taken.items()
    ]


def to_line(row: Mapping[str, Any]) -> str:
    """A record's line of the table."""
    bits = row["weight_bits"], row["activation_bits"]
    name = "float32" if bits == FLOAT else f"W{bits[0]}A{bits[1]}"
    of_torch, of_jax = (
        "" if row[key] is None else f"{row[key]:.2f}" for key in ("torch_ratio", "jax_ratio")
    )
    # Of the file, whatever runs it.
    is_first = row["runtime"] not in FRAMEWORKS and bits != FLOAT
    rms, own = (f"{row[key]:.1e}" if is_first else "" for key in ("rms", "own_rms"))
    return (
        f"| {row['model']} | {name} | {row['size'] / 1e6:.2f} MB | {row['size_ratio']:.2f} "
        f"| {row['runtime']} | {row['batch']} | {1e3 * row['seconds']:.1f} | {row['ratio']:.2f} "
        f"| {of_torch} | {of_jax} | {row['peak_bytes'] / 1e6:.0f} | {rms} | {own} |"
    )


def _serve(path: Path, runtime: str, batch: int) -> None:
    """Runs the file, a pass for every line on standard input."""
    prepare = {
        "onnxruntime": _of_onnxruntime,
        "openvino": _of_openvino,
        "torch": _of_torch,
        "jax": _of_jax,
    }[runtime]
    step = prepare(path, batch)

    def timed() -> float:
        started = time.process_time()
        step()
        return time.process_time() - started

    processes.answer(timed)


def _of_onnxruntime(path: Path, batch: int) -> processes.Step:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    images = _images((batch, *taken.shape[1:]))

    def step() -> None:
        session.run(None, {taken.name: images})

    return step


def _of_openvino(path: Path, batch: int) -> processes.Step:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"} | EXACT_OPENVINO
    model = openvino.Core().compile_model(path, "CPU", settings)
    images = _images((batch, *(d.get_length() for d in model.input(0).partial_shape[1:])))
    request = model.create_infer_request()

    def step() -> None:
        request.infer([images])

    return step


def _of_torch(path: Path, batch: int) -> processes.Step:
    """The architecture as transformers has it, its weights random."""
    del path
    import torch
    import transformers

    from maskaq_jax.models import create_model

    torch.set_num_threads(1)
    model: Any = create_model(_parser().parse_args().models[0])
    common = {"image_size": model.img_size, "patch_size": model.patch_size, "num_labels": 1000}
    if hasattr(model, "depths"):
        sizes = {
            name: getattr(model, name)
            for name in ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio")
        }
        settings = transformers.SwinConfig(**common, **sizes)
    else:
        settings = transformers.ViTConfig(
            hidden_size=model.embed_dim,
            num_hidden_layers=model.depth,
            num_attention_heads=model.num_heads,
            intermediate_size=int(model.embed_dim * model.mlp_ratio),
            **common,
        )
    network = transformers.AutoModelForImageClassification.from_config(settings).eval()
    images = torch.from_numpy(_images((batch, 3, model.img_size, model.img_size)))

    def step() -> None:
        with torch.inference_mode():
            network(images)

    return step


def _of_jax(path: Path, batch: int) -> processes.Step:
    del path
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_ONE_THREAD}"
    import jax

    from maskaq_jax.models import create_model

    model: Any = create_model(_parser().parse_args().models[0])
    images = _images((batch, *model.input_shape))
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    apply = jax.jit(lambda variables, images: model.apply(variables, images)[0])

    def step() -> None:
        jax.block_until_ready(apply(variables, images))

    return step


def _images(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _cpu() -> str:
    """Its name, and which of the instructions it has that integers gain from, on Linux."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    lines = (line.partition(":") for line in text.splitlines())
    values = {name.strip(): value.strip() for name, _, value in lines}
    flags = values.get("flags", "").split()
    found = [name for name in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8") if name in flags]
    return f"{values.get('model name', 'CPU')} ({', '.join(found) or 'none of AVX2, VNNI, AMX'})"


if __name__ == "__main__":
    main()
