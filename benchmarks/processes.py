"""Processes of their own, so that one measurement does not touch the next, and what they take."""

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

# What JAX and PyTorch say where an accelerator's memory is used up.
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory")
# Takes a step and waits for it.
Step = Callable[[], None]
# Takes a step and tells its seconds.
TimedStep = Callable[[], float]


@dataclasses.dataclass
class Served:
    """Another process, which takes steps.

    Attributes:
      wait: until the process has prepared its step.
      step: takes one there; NaN where the memory does not suffice.
      end: the process, so that others have its memory.
      peak_bytes: of that process' memory, up to the last step.
    """

    wait: Callable[[], None]
    step: TimedStep
    end: Callable[[], None]
    peak_bytes: int = 0


def measure(
    *arguments: str, directory: Path | None = None, output: IO[bytes] | None = None
) -> tuple[float, float]:
    """Seconds and peak gigabytes of a Python process, on Linux.

    Args:
      *arguments: Python's.
      directory: where it runs, and finds its modules first; None for here.
      output: file of what it prints; None for this process' errors.

    Raises:
      subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, *arguments]
    environment = None if directory is None else os.environ | {"PYTHONPATH": str(directory)}
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stdout=output or sys.stderr, stderr=output
    )
    try:
        # Of this process alone, where `getrusage` tells of the largest of all children so far.
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        raise
    seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, usage.ru_maxrss * 1024 / 1e9


@contextlib.contextmanager
def serve(*arguments: str) -> Iterator[Served]:
    """A Python process that calls `answer`, on Linux.

    What is asked of it raises RuntimeError once the process has ended.
    """
    with subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None
        assert answers is not None

        def read_answer() -> Any:
            line = b"" if requests.closed else answers.readline()
            if not line:
                raise RuntimeError(
                    f"the process of {' '.join(arguments)} ended with status {process.wait()}"
                )
            return json.loads(line)

        @functools.cache
        def wait() -> None:
            read_answer()

        def take_step() -> float:
            wait()
            with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended, or is closed
                requests.write(b"\n")
            seconds, served.peak_bytes = read_answer()
            return seconds

        def end() -> None:
            requests.close()
            process.wait()

        served = Served(wait, take_step, end)
        try:
            yield served
        except BaseException:
            process.kill()  # it may be preparing for long
            raise


def peak_of_process() -> int:
    """Bytes that this process has held at most, on Linux."""
    # Not `getrusage`, whose peak may be that of the process which started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if "VmHWM" in line)
    return int(kilobytes) * 1024


def answer(step: TimedStep, measure_peak: Callable[[], int] = peak_of_process) -> None:
    """Says that it is ready, and takes a step for every line on standard input.

    Args:
      step: to take; where an accelerator's memory does not suffice for it, it and all after it are
        said to take NaN seconds, and are not tried again.
      measure_peak: bytes held at most so far.
    """
    print(json.dumps("ready"), flush=True)
    seconds = 0.0
    for _ in sys.stdin:
        if not math.isnan(seconds):
            try:
                seconds = step()
            except RuntimeError as error:
                if not any(words in str(error) for words in _OUT_OF_MEMORY):
                    raise
                seconds = math.nan
        print(json.dumps([seconds, measure_peak()]), flush=True)


def parse_repeats(text: str) -> int:
    """An argument's number of timed steps: as many as a spread takes."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r}, but a spread takes 2 or more")
    return int(text)


def interleave(steps: Mapping[str, TimedStep], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step, `repeats` times in turn, after two that don't count."""
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in range(repeats + 2):
        for kind, step in steps.items():
            taken = step()
            if number >= 2:
                seconds[kind].append(taken)
    return seconds


def timed(step: Step, count: int = 1) -> TimedStep:
    """`step` with its time taken; where it is `count` steps, the seconds of one."""

    def take_step() -> float:
        started = time.perf_counter()
        step()
        return (time.perf_counter() - started) / count

    return take_step
