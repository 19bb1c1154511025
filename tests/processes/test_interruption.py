"""Runs that are killed, told to stop, out of disk, refused, or not alone in their directory."""

import functools
import random
import re
import resource
import signal
import time

import numpy as np
import pytest

from maskaq_jax.models import create_model
from tests import tiny
from tests.processes import runs

pytestmark = [pytest.mark.slow, tiny.ignore_orbax_warnings]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny_processes")
    weights = directory / "tiny.safetensors"
    tiny.save_random_weights(create_model("vit", 10, **tiny.ARGUMENTS), weights)
    smaller = runs.SMALLER.format(arguments=tiny.ARGUMENTS, weights=weights)
    (directory / "config.py").write_text(runs.CONFIG + smaller)
    return directory


def _read(path):
    return path.read_text() if path.is_file() else ""


def _wait(process, is_there):
    """Until something is there, as long as the process lives that makes it."""
    while not is_there():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


def _limit_files(limit):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def _assert_same_bits(workdir, expected):
    assert runs.results(workdir) == runs.results(expected)
    for refresh in range(2):
        for actual, wanted in zip(
            runs.images(workdir, refresh), runs.images(expected, refresh), strict=True
        ):
            np.testing.assert_array_equal(actual, wanted)
    for actual, wanted in zip(runs.leaves(workdir), runs.leaves(expected), strict=True):
        np.testing.assert_array_equal(actual, wanted)


# In the order of a run, so that every one of them is reached: later starts do less.
KILLS = [
    *[("calibration", 1), ("synthesis", 2), ("calibration", 2), ("evaluation", 2)],
    *[("finetuning", 1), ("synthesis", 3), ("finetuning", 2), ("evaluation", 1)],
]


def test_kills_change_no_bit(directory, finished):
    workdir = directory / "killed"
    hit = []
    for seed, (phase, count) in enumerate(KILLS):
        # Of every size up to a tenth of a second, so that some fall between two signs of life.
        delay = 10 ** random.Random(seed).uniform(-3, -1)
        killer = [runs.KILLER, phase, str(count), str(delay)]
        process = runs.start(directory, workdir, script=killer)
        output, _ = process.communicate(timeout=900)
        if process.returncode == -signal.SIGKILL:
            hit.append(phase)
        else:
            assert process.returncode == 0, output
    assert "continuing after step" in runs.finish(runs.start(directory, workdir))
    assert len(hit) == len(KILLS), hit
    _assert_same_bits(workdir, finished)


def test_two_processes_resume_where_both_know_it(directory):
    workdir, flag = directory / "pair", "--config.finetuning.epochs=1"
    for process in runs.start_all(directory, workdir, 2, flag):
        runs.finish(process)
    expected = runs.leaves(workdir)
    killed = directory / "killed_pair"
    # Both die at once in the middle of a batch; then one has lost what it knew of it.
    killer = [runs.KILLER, "synthesis", "4", "0"]
    for process in runs.start_all(directory, killed, 2, flag, script=killer):
        process.communicate(timeout=900)
    unfinished = sorted(killed.rglob("unfinished_*.safetensors"))
    assert len(unfinished) == 2
    unfinished[-1].unlink()
    for process in runs.start_all(directory, killed, 2, flag):
        runs.finish(process)
    for actual, wanted in zip(runs.leaves(killed), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


def test_sigterm_saves_and_says_so(directory, finished):
    workdir = directory / "preempted"
    process = runs.start(directory, workdir)
    _wait(process, lambda: "finetuning" in _read(workdir / "metrics.jsonl"))
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 75, output
    assert f"start again with --workdir={workdir}" in output
    again = runs.finish(runs.start(directory, workdir))
    step = re.search(r"continuing after step (\d+) of 8", again)
    assert step
    assert 2 <= int(step[1]) < 8
    _assert_same_bits(workdir, finished)


def test_ctrl_c_is_answered_and_a_start_says_from_where_it_continues(directory, finished):
    workdir = directory / "interrupted"
    process = runs.start(directory, workdir)
    _wait(process, lambda: any(workdir.glob("samples/refresh_000/unfinished_*")))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 75, output
    assert re.search(r"^SIGINT: saving, .*; Ctrl-C again to stop now$", output, re.MULTILINE)
    assert f"start again with --workdir={workdir}" in output
    assert re.search(r"^expected: .* to .* on 1 x cpu, about .* of memory", output, re.MULTILINE)
    assert "top-1 accuracy of both models on 1000 images of fashion_mnist" in output
    again = runs.finish(runs.start(directory, workdir))
    continues = r"continuing (images \d+ to \d+|with the images) of refresh 0"
    assert re.search(continues, again), again
    assert f"to look at: {workdir / 'report.html'}" in again
    _assert_same_bits(workdir, finished)


def test_a_full_disk_is_told_and_loses_nothing(directory, finished):
    """No file may be larger than a limit, as if the disk ended there."""
    workdir = directory / "full"
    # A batch of images is larger than the first, what describes a checkpoint than the second.
    # Compiled programs are larger too, and already there.
    for limit in (30_000, 200_000):
        process = runs.start(directory, workdir, preexec_fn=functools.partial(_limit_files, limit))
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 1, output
        *before, last = output.strip().splitlines()
        assert last.startswith("error: the disk has no room")
        assert "start again" in last
        # Nothing that writes in the background adds words of its own.
        assert "Traceback" not in output
        assert len(before) < 20
        is_made = any((workdir / "samples").rglob("images_*.safetensors"))
        assert is_made == (limit > 30_000)
    runs.finish(runs.start(directory, workdir))
    _assert_same_bits(workdir, finished)


def test_a_second_run_in_the_directory_is_refused(directory):
    workdir = directory / "shared"
    first = runs.start(directory, workdir)
    _wait(first, (workdir / "config.json").is_file)
    first.send_signal(signal.SIGSTOP)
    try:
        second = runs.start(directory, workdir)
        output, _ = second.communicate(timeout=900)
    finally:
        first.send_signal(signal.SIGCONT)
    assert second.returncode == 2, output
    assert f"another run is at work in {workdir}" in output
    runs.finish(first)


def test_what_one_process_refuses_no_other_waits_for(directory):
    workdir, damaged = directory / "refused", directory / "damaged.safetensors"
    damaged.write_text("these are no weights")
    group = [f"--coordinator=127.0.0.1:{runs.free_port()}", "--num_processes=2"]
    mistake = f"--config.model.weights={damaged}"
    processes = [
        runs.start(directory, workdir, *group, "--process_id=0"),
        runs.start(directory, workdir, *group, "--process_id=1", mistake),
    ]
    said = [process.communicate(timeout=900)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert "error: another process refuses: its own message says why" in said[0]
    assert f"error: {damaged}" in said[1]
    assert not workdir.exists()


def test_programs_of_every_size_are_kept_on_disk(directory, finished):
    names = {path.name.partition("-")[0] for path in (directory / "compiled").iterdir()}
    # The steps, and what compiles in milliseconds: the noise of `training_images.read_noise`.
    assert {"jit__take_step", "jit__take_steps", "jit_draw"} <= names
