"""Runs that are killed, told to stop, out of disk, or not alone in their directory."""

import resource
import signal

import numpy as np
import pytest

from maskaq_jax.models import create_model
from tests import tiny
from tests.processes import runs

pytestmark = [
    pytest.mark.slow,
    # Orbax leaves an event loop to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestWarning"),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny_processes")
    weights = directory / "tiny.safetensors"
    tiny.save_random_weights(create_model("vit", 10, **tiny.ARGUMENTS), weights)
    smaller = runs.SMALLER.format(arguments=tiny.ARGUMENTS, weights=weights)
    (directory / "config.py").write_text(runs.CONFIG + smaller)
    return directory


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
    *[("calibration", 1), ("evaluation", 2), ("synthesis", 1), ("synthesis", 2), ("synthesis", 3)],
    *[("synthesis", 2), ("synthesis", 3), ("calibration", 2), ("evaluation", 1), ("evaluation", 3)],
    *[("finetuning", 1), ("finetuning", 1), ("finetuning", 2), ("synthesis", 2), ("synthesis", 3)],
    *[("synthesis", 4), ("finetuning", 1), ("finetuning", 2), ("finetuning", 1), ("evaluation", 1)],
]


def test_twenty_kills_change_no_bit(directory, finished):
    workdir = directory / "killed"
    hit = []
    for seed, (phase, count) in enumerate(KILLS):
        killer = [runs.KILLER, phase, str(count), str(seed)]
        process = runs.start(directory, workdir, script=killer)
        output, _ = process.communicate(timeout=900)
        if process.returncode == -signal.SIGKILL:
            hit.append(phase)
        else:
            assert process.returncode == 0, output
    runs.finish(runs.start(directory, workdir))
    assert len(hit) == len(KILLS), hit
    _assert_same_bits(workdir, finished)


def test_two_processes_resume_where_both_know_it(directory):
    workdir = directory / "pair"
    for process in runs.start_all(directory, workdir, 2):
        runs.finish(process)
    expected = runs.leaves(workdir)
    killed = directory / "killed_pair"
    # Both die at once in the middle of a batch; then one has lost what it knew of it.
    killer = [runs.KILLER, "synthesis", "4", "1651"]
    for process in runs.start_all(directory, killed, 2, script=killer):
        process.communicate(timeout=900)
    unfinished = sorted(killed.rglob("unfinished_*"))
    assert unfinished
    unfinished[-1].unlink()
    for process in runs.start_all(directory, killed, 2):
        runs.finish(process)
    for actual, wanted in zip(runs.leaves(killed), expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)


def test_sigterm_saves_and_says_so(directory, finished):
    workdir = directory / "preempted"
    process = runs.start(directory, workdir, "--config.samples.refresh_every=2")
    for line in process.stdout:
        if line.startswith("run directory"):
            break
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 75, output
    assert f"start again with --workdir={workdir}" in output
    runs.finish(runs.start(directory, workdir))
    _assert_same_bits(workdir, finished)


# A batch of images is larger than the first, what describes a checkpoint than the second.
@pytest.mark.parametrize("limit", [30_000, 200_000])
def test_a_full_disk_is_told_and_loses_nothing(directory, finished, limit):
    """No file may be larger than the limit, as if the disk ended there."""

    def limit_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    workdir = directory / f"full_{limit}"
    # Compiled programs are larger too, and already there.
    process = runs.start(directory, workdir, preexec_fn=limit_files)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 1, output
    *before, last = output.strip().splitlines()
    assert last.startswith("error: the disk has no room")
    assert "start again" in last
    # Nothing that writes in the background adds words of its own.
    assert "Traceback" not in output
    assert len(before) < 20
    runs.finish(runs.start(directory, workdir))
    _assert_same_bits(workdir, finished)


def test_a_second_run_in_the_directory_is_refused(directory):
    workdir = directory / "shared"
    first = runs.start(directory, workdir)
    for line in first.stdout:
        if "% of the run" in line or (workdir / "metrics.jsonl").exists():
            break
    second = runs.start(directory, workdir)
    output, _ = second.communicate(timeout=900)
    assert second.returncode == 2, output
    assert f"another run is at work in {workdir}" in output
    runs.finish(first)


def test_a_run_that_ended_before_it_began_can_start(directory):
    workdir = directory / "remains"
    workdir.mkdir()
    for name in ("lock", "config.json.unfinished"):
        (workdir / name).write_text("")
    runs.finish(runs.start(directory, workdir))


def test_programs_of_every_size_are_kept_on_disk(directory, finished):
    names = {path.name.partition("-")[0] for path in (directory / "compiled").iterdir()}
    # The steps, and what compiles in milliseconds.
    assert {"jit_per_device", "jit__threefry_seed"} <= names
