"""What benches draw and read, of figures that are there already."""

import argparse
import contextlib
import csv
import functools
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks import growth, loops, problems, processes, products, profile, step_table, steps
from maskaq_jax.models import Quantization, create_model

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("torch_")])
def test_every_bench_can_be_opened_without_torch(name):
    assert importlib.import_module(f"benchmarks.{name}").__doc__


@pytest.fixture
def points():
    with (ROOT / "docs" / "growth.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    measured = ("seconds", "compile_seconds", "device")
    return [
        {name: value if name in measured else int(value) for name, value in row.items()}
        | {"seconds": float(row["seconds"])}
        for row in rows
    ]


def test_growth_is_drawn_from_its_table(points, tmp_path):
    growth.write_table(points, tmp_path / "growth.csv")
    with (tmp_path / "growth.csv").open(newline="") as file:
        again = list(csv.DictReader(file))
    assert [float(row["seconds"]) for row in again] == [point["seconds"] for point in points]
    growth.draw(points, "DeiT-T", tmp_path / "growth.png")
    with Image.open(tmp_path / "growth.png") as picture:
        assert picture.size == (1200, 500)


def test_the_table_in_the_docs_has_every_point(points):
    expected = growth.list_points()
    assert [{name: point[name] for name in expected[0]} for point in points] == expected


def test_growth_counts_the_tokens_of_an_image():
    assert growth.abscissa("img_size", 224) == 197
    assert growth.abscissa("batch", 8) == 8


def test_instructions_are_told_by_the_part_of_the_model_they_belong_to():
    def attend(x):
        with jax.named_scope("blocks_0"), jax.named_scope("attn"):
            with jax.named_scope("qkv"):
                x = x @ x
            return jax.nn.softmax(x)

    compiled = jax.jit(attend).lower(jnp.ones((64, 64))).compile()
    scopes = profile.read_scopes(compiled.as_text())
    assert any("attn/qkv/dot_general" in scope for scope in scopes.values())
    assert any("attn/" in scope and "exp" in scope for scope in scopes.values())


def test_a_step_is_a_share_of_the_seconds_of_all(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(processes.time, "perf_counter", lambda: now[0])

    def forty_steps():
        now[0] += 10.0

    assert processes.timed(forty_steps, count=40)() == 0.25


# Steps of 1, 2, ... seconds, as it says, and as many bytes.
SERVED = """
import itertools
from benchmarks import processes

processes.answer(itertools.count(1).__next__, itertools.count(1).__next__)
"""


def test_a_process_of_its_own_takes_a_step_when_asked():
    with processes.serve("-c", SERVED) as served:
        assert [served.step(), served.step()] == [1, 2]
    assert served.peak_bytes == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_a_peak_is_the_process_own_and_stays_when_the_memory_is_given_back():
    """Whatever the process that started it holds."""
    size = 200 * 2**20
    held = b"x" * (2 * size)

    def peak_of(statement):
        program = f"from benchmarks import processes; {statement}; "
        program += "print(processes.peak_of_process())"
        return int(subprocess.check_output([sys.executable, "-c", program], cwd=ROOT))

    assert 0.9 * size < peak_of(f"bytearray({size})") - peak_of("None") < 1.1 * size
    assert len(held) == 2 * size


SHORT_OF_MEMORY = """
from benchmarks import processes

def step():
    raise RuntimeError({words!r})

processes.answer(step)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
@pytest.mark.parametrize(
    ("side_by_side", "words"),
    [
        (True, "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."),
        (False, "CUDA out of memory. Tried to allocate 9.00 GiB."),
    ],
)
def test_what_memory_does_not_suffice_for_has_no_seconds(side_by_side, words):
    commands = {"ours": ("-c", SERVED), "torch": ("-c", SHORT_OF_MEMORY.format(words=words))}
    seconds, served = steps.measure_all(commands, repeats=2, side_by_side=side_by_side)
    assert seconds.keys() == {"ours"}
    assert len(seconds["ours"]) == 2
    with pytest.raises(RuntimeError, match="ended"):
        served["ours"].step()


def test_processes_that_take_turns_are_all_ready_before_the_first_step(monkeypatch):
    log = []

    @contextlib.contextmanager
    def serve(name):
        def note(event):
            log.append(f"{name} {event}")
            return 1.0

        served = (functools.partial(note, event) for event in ("ready", "step", "ended"))
        yield processes.Served(*served)

    monkeypatch.setattr(steps, "serve", serve)
    seconds, _ = steps.measure_all({"a": "a", "b": "b"}, repeats=2, side_by_side=False)
    turns = [*["a step"] * 4, "a ended", *["b step"] * 4, "b ended"]
    assert log == ["a ready", "b ready", *turns]
    assert seconds == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_a_process_that_is_ended_is_waited_for(tmp_path):
    program = "from benchmarks import processes; processes.answer(float); "
    program += f"open({str(tmp_path / 'last')!r}, 'w').close()"
    with processes.serve("-c", program) as served:
        served.wait()
        served.end()
        assert (tmp_path / "last").exists()


def test_another_error_ends_the_process():
    code = SHORT_OF_MEMORY.format(words="INTERNAL: no such kernel")
    with processes.serve("-c", code) as served, pytest.raises(RuntimeError, match="status 1"):
        served.step()


def test_a_row_says_what_memory_did_not_suffice_for():
    kinds = ("torch", "torch_tuned")
    record = {
        **{"model": "deit_t", "dtype": "float32", "batch": 512, "phase": "synthesis"},
        **{"implementations": ["ours", *kinds], "seconds": 0.106, "seconds_spread": 0.001},
        **{"torch_seconds": None, "torch_tuned_seconds": 0.377, "ratio": None, "ratio_tuned": 3.5},
        **{"peak_bytes": 34e9, "torch_peak_bytes": None, "torch_tuned_peak_bytes": 56e9},
        **{"compile_seconds": 36.0, "cached_compile_seconds": 3.2, "trace_seconds": 1.3},
        "utilization": 0.15,
    }
    assert step_table.format_row(record) == (
        "| deit_t, float32, batch 512 | synthesis | 0.106 s ± 0.001 | out of memory | 0.377 s "
        "| 3.5 | 34 GB, 56 GB | 36 s, 3.2 s; 1.3 s | 15% |"
    )
    without = record | {"implementations": ["ours"], "torch_tuned_seconds": None}
    assert "memory" not in step_table.format_row(without)


def test_products_are_counted_for_every_phase():
    model = create_model("deit_tiny_patch16_224", 1000, Quantization(3, 3))
    forward = products.count_product_flops(model, "evaluation")
    # By hand: 1.08 G multiplications of dense layers, 0.18 G of attention.
    assert forward == pytest.approx(2.5e9, rel=0.02)
    assert products.count_product_flops(model, "finetuning") == 4 * forward
    # Both models forward and back, where attention's products have two each, without what follows
    # the logits in Q's last block: half of its attention, all dense layers but the first, the head.
    attention, dense = 4 * 197**2 * 192, 2 * 197 * 12 * 192**2
    patches, head = 2 * 196 * 768 * 192, 2 * 192 * 1000
    needed = 4 * (12 * dense + patches + head) + 6 * 12 * attention
    skipped = 2 * (dense * 3 / 4 + head) + 3 * attention / 2
    assert products.count_product_flops(model, "synthesis") == needed - skipped
    with pytest.raises(ValueError, match="no phase 'fine-tuning'"):
        products.count_product_flops(model, "fine-tuning")


@pytest.mark.parametrize(
    ("name", "num_classes", "has_torch"),
    [
        ("deit_tiny_patch16_224", 1000, True),
        ("deit_tiny_distilled_patch16_224", 1000, False),
        ("vit_small_patch14_dinov2", 0, False),
        ("swin_tiny_patch4_window7_224", 1000, False),
    ],
)
def test_torch_is_asked_for_what_it_has(name, num_classes, has_torch):
    model = create_model(name, num_classes, Quantization(3, 3))
    assert ("torch" in steps.implementations(model)) == has_torch


def test_without_torch_ours_are_measured_alone(monkeypatch):
    asked = []

    def measure_all(commands, repeats, side_by_side):
        asked.extend(commands)
        return {"ours": [0.1, 0.2]}, {"ours": processes.Served(print, float, print, 9)}

    monkeypatch.setattr(steps, "is_torch_installed", lambda: False)
    monkeypatch.setattr(steps, "measure_all", measure_all)
    options = argparse.Namespace(bits=3, repeats=2, keep_memory=False, cache=None)
    record = steps.benchmark("vit_fashion", "float32", 4, "evaluation", options)
    assert asked == ["ours"]
    assert record["ratio"] is None
    assert step_table.format_row(record).startswith("| vit_fashion, float32, batch 4 | ")


@pytest.mark.parametrize("repeats", ["1", "none", "-2"])
@pytest.mark.parametrize("bench", [steps, loops])
def test_repeats_of_which_is_no_spread_are_refused(bench, repeats, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", f"--repeats={repeats}"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "a spread takes 2 or more" in capsys.readouterr().err


def test_compiling_only_needs_a_place_for_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--compile_only"])
    with pytest.raises(SystemExit):
        steps.main()
    assert "--compile_only fills a --cache, and none is named" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is kept on Linux")
def test_a_run_that_only_compiles_leaves_programs_to_the_next(tmp_path):
    command = [sys.executable, "-m", "benchmarks.steps", "--models=vit_fashion", "--batch=2"]
    command += ["--phases=evaluation", "--compile_only", f"--cache={tmp_path}"]
    environment = os.environ | {"XLA_FLAGS": ""}  # one device
    first = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert first.stdout.startswith("vit_fashion, float32, batch 2, evaluation: ")
    environment["JAX_LOGGING_LEVEL"] = "DEBUG"
    second = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert "Persistent compilation cache hit for 'jit__count'" in second.stderr


@pytest.mark.parametrize("code", ["print('null', flush=True); input(); exit(3)", "exit(3)"])
def test_a_step_of_a_process_that_ended_is_an_error(code):
    with processes.serve("-c", code) as served, pytest.raises(RuntimeError, match="status 3"):
        served.step()


def test_looped_and_unrolled_blocks_have_the_same_loss_and_gradient():
    problem = problems.make_problem("vit_fashion", 2, bits=3)
    model = problem.model
    tokens = loops.make_tokens(model, 2)
    unrolled = jax.jit(jax.value_and_grad(loops.make_unrolled(model), 1))
    looped = jax.jit(jax.value_and_grad(loops.make_looped(model), 1))
    loss, gradient = unrolled(loops.list_blocks(problem.variables, model.depth), tokens)
    other_loss, other_gradient = looped(loops.stack_blocks(problem.variables, model.depth), tokens)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-4)
    np.testing.assert_allclose(other_gradient, gradient, atol=1e-3 * jnp.abs(gradient).max())


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")
def test_steps_are_measured_in_processes_of_their_own(tmp_path):
    command = [sys.executable, "-m", "benchmarks.steps", "--models=swin_fashion", "--repeats=2"]
    command += ["--phases=synthesis,evaluation", f"--json={tmp_path / 'steps.json'}"]
    subprocess.run(command, check=True)
    synthesis, evaluation = json.loads((tmp_path / "steps.json").read_text())
    for record in (synthesis, evaluation):
        assert record["seconds"] > 0
        share = record["product_flops"] / record["seconds"] / record["matmul_flops_per_second"]
        assert record["utilization"] == pytest.approx(share)
    assert synthesis["peak_bytes"] > evaluation["peak_bytes"] > 1e8
    assert synthesis["product_flops"] > evaluation["product_flops"] > 1e6
    assert evaluation["torch_seconds"] is evaluation["ratio"] is None
