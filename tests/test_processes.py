"""Runs as real processes: killed, told to stop, out of disk, several at once."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import maskaq_jax
from maskaq_jax import samples

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    # Orbax leaves an event loop to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestWarning"),
]

# A model of 28 x 28 images small enough that a run takes seconds; 8 bits and small steps, so that
# rounding that differs between device counts does not grow into another model.
CONFIG = """
from configs import smoke


def get_config(argument=None):
    config = smoke.get_config(argument)
    config.quantization.weight_bits = config.quantization.activation_bits = 8
    config.samples.num_samples, config.samples.batch_size = 12, 6
    config.samples.calibration_size = 8
    config.synthesis.num_steps = 25
    config.finetuning.batch_size = 6
    config.finetuning.epochs = 4
    config.samples.refresh_every = 2
    config.finetuning.learning_rate = 1e-5
    config.finetuning.quantizer_learning_rate = 1e-4
    config.evaluation.batch_size = 2500
    config.checkpoint_seconds = 0.0
    return config
"""

# Ends the process as SIGKILL would, a random moment after the n-th sign of life of a phase.
KILLER = """
import contextlib, os, random, signal, sys, threading
from absl import app
from maskaq_jax import main, report, run

phase, count, seed = sys.argv.pop(1), int(sys.argv.pop(1)), int(sys.argv.pop(1))
delay = random.Random(seed).uniform(0, 0.1)
seen = 0

def notice(name):
    global seen
    seen += name == phase
    if name == phase and seen == count:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

show = report.Reporter.phase
@contextlib.contextmanager
def watched(self, name):
    with show(self, name) as advance:
        def told(units):
            notice(name)
            advance(units)
        yield told
report.Reporter.phase = watched

calibrate = run._calibrated
def calibrated(*arguments):
    notice("calibration")
    return calibrate(*arguments)
run._calibrated = calibrated
app.run(main.main, flags_parser=main._parse_flags)
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("processes")
    (directory / "config.py").write_text(CONFIG)
    return directory


def _start(directory, workdir, *flags, script=None, devices=1, **options):
    program = ["-c", *script] if script else ["-m", "maskaq_jax.main"]
    return subprocess.Popen(
        [
            *(sys.executable, *program, f"--config={directory / 'config.py'}"),
            *(f"--workdir={workdir}", f"--compilation_cache={directory / 'compiled'}", *flags),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ
        | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "PYTHONUNBUFFERED": "1",
        },
        **options,
    )


def _finish(process):
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def finished(directory):
    _finish(_start(directory, directory / "finished"))
    return directory / "finished"


def _results(workdir):
    results = json.loads((workdir / "results.json").read_text())
    return {name: value for name, value in results.items() if name not in ("seconds", "device")}


def _images(workdir, refresh):
    shards = samples.list_shards(samples.refresh_folder(workdir / "samples", refresh))
    arrays = [samples.read_arrays(shard.path) for shard in shards]
    return tuple(np.concatenate([array[name] for array in arrays]) for name in ("images", "labels"))


def _leaves(workdir):
    import jax

    return jax.tree.leaves(maskaq_jax.load(workdir)[1])


def _assert_same_bits(workdir, expected):
    assert _results(workdir) == _results(expected)
    for refresh in range(2):
        for actual, wanted in zip(
            _images(workdir, refresh), _images(expected, refresh), strict=True
        ):
            np.testing.assert_array_equal(actual, wanted)
    for actual, wanted in zip(_leaves(workdir), _leaves(expected), strict=True):
        np.testing.assert_array_equal(actual, wanted)


# In the order of a run, so that every one of them is reached: later starts do less.
KILLS = [
    *[("calibration", 1), ("evaluation", 2), ("synthesis", 1), ("synthesis", 2), ("synthesis", 3)],
    *[("synthesis", 2), ("synthesis", 3), ("calibration", 2), ("evaluation", 1), ("evaluation", 3)],
    *[("finetuning", 1), ("finetuning", 1), ("finetuning", 2), ("synthesis", 2), ("synthesis", 3)],
    *[("synthesis", 4), ("finetuning", 1), ("finetuning", 2), ("finetuning", 1), ("evaluation", 1)],
]


def test_twenty_kills_change_no_bit(directory, finished):
    workdir = directory / "killed"
    hit = []
    for seed, (phase, count) in enumerate(KILLS):
        process = _start(directory, workdir, script=[KILLER, phase, str(count), str(seed)])
        output, _ = process.communicate(timeout=900)
        if process.returncode == -signal.SIGKILL:
            hit.append(phase)
        else:
            assert process.returncode == 0, output
    _finish(_start(directory, workdir))
    assert len(hit) == len(KILLS), hit
    _assert_same_bits(workdir, finished)


def test_sigterm_saves_and_says_so(directory, finished):
    workdir = directory / "preempted"
    process = _start(directory, workdir, "--config.samples.refresh_every=2")
    for line in process.stdout:
        if line.startswith("run directory"):
            break
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 75, output
    assert f"start again with --workdir={workdir}" in output
    _finish(_start(directory, workdir))
    _assert_same_bits(workdir, finished)


# A batch of images is larger than the first, a checkpoint than the second.
@pytest.mark.parametrize("limit", [30_000, 200_000])
def test_a_full_disk_is_told_and_loses_nothing(directory, finished, limit):
    """No file may be larger than the limit, as if the disk ended there."""

    def limit_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    workdir = directory / f"full_{limit}"
    # Compiled programs are larger too, and already there.
    process = _start(directory, workdir, preexec_fn=limit_files)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 1, output
    *before, last = output.strip().splitlines()
    assert last.startswith("error: the disk has no room")
    assert "start again" in last
    # Nothing that writes in the background adds words of its own.
    assert "Traceback" not in output
    assert len(before) < 20
    _finish(_start(directory, workdir))
    _assert_same_bits(workdir, finished)


def test_a_second_run_in_the_directory_is_refused(directory):
    workdir = directory / "shared"
    first = _start(directory, workdir)
    for line in first.stdout:
        if "% of the run" in line or (workdir / "metrics.jsonl").exists():
            break
    second = _start(directory, workdir)
    output, _ = second.communicate(timeout=900)
    assert second.returncode == 2, output
    assert f"another run is at work in {workdir}" in output
    _finish(first)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start_two(directory, workdir, script=None):
    """Two processes of one run; `script` has what each runs instead of the program."""
    flags = [f"--coordinator=127.0.0.1:{_free_port()}", "--num_processes=2"]
    return [
        _start(
            *(directory, workdir, *flags, f"--process_id={number}"),
            script=script,
        )
        for number in range(2)
    ]


def test_two_processes_resume_where_both_know_it(directory):
    workdir = directory / "pair"
    for process in _start_two(directory, workdir):
        _finish(process)
    expected = _leaves(workdir)
    killed = directory / "killed_pair"
    # Both die at once in the middle of a batch; then one has lost what it knew of it.
    for process in _start_two(directory, killed, [KILLER, "synthesis", "4", "1651"]):
        process.communicate(timeout=900)
    unfinished = sorted(killed.rglob("unfinished_*"))
    assert unfinished
    unfinished[-1].unlink()
    for process in _start_two(directory, killed):
        _finish(process)
    for actual, wanted in zip(_leaves(killed), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


def test_a_run_that_ended_before_it_began_can_start(directory):
    workdir = directory / "remains"
    workdir.mkdir()
    for name in ("lock", "config.json.unfinished"):
        (workdir / name).write_text("")
    _finish(_start(directory, workdir))


# A float32 sum in another order differs by 1e-7 of its size. Adam divides a gradient by its own
# size, so where it is nearly 0 that rounding decides an update of 0.1: few pixels, and the mean
# stays small. At 8 bits and small steps, Q then differs by less than a point.
IMAGE_TOLERANCE, ACCURACY_TOLERANCE = 0.01, 1.0


@pytest.mark.parametrize(("processes", "devices"), [(1, 2), (1, 8), (2, 2)])
def test_devices_and_processes_change_no_result(directory, finished, processes, devices):
    workdir = directory / f"{processes}x{devices}"
    flags = [f"--coordinator=127.0.0.1:{_free_port()}", f"--num_processes={processes}"]
    running = [
        _start(
            *(directory, workdir),
            *([*flags, f"--process_id={number}"] if processes > 1 else []),
            devices=devices,
        )
        for number in range(processes)
    ]
    for process in running:
        _finish(process)
    for name, value in _results(workdir).items():
        expected = _results(finished)[name]
        if name.endswith("top1"):
            assert abs(value - expected) <= ACCURACY_TOLERANCE, name
        else:
            assert value == expected, name
    for refresh in range(2):
        (images, labels), (expected, expected_labels) = (
            _images(directory, refresh) for directory in (workdir, finished)
        )
        np.testing.assert_array_equal(labels, expected_labels)
        assert np.abs(images - expected).mean() <= IMAGE_TOLERANCE
    shards = samples.list_shards(samples.refresh_folder(workdir / "samples", 0))
    # Six images are three for each of two hosts, and so on: a host stores its own.
    assert len(shards) == 2 * processes
