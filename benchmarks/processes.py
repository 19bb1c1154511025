"""Processes of their own, so that one measurement does not touch the next."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Takes a step and waits for it.
Step = Callable[[], None]
# Takes a step, and tells its seconds and its process' peak memory so far in bytes.
TimedStep = Callable[[], tuple[float, int]]


def measure(*arguments: str) -> tuple[float, float]:
    """Seconds and peak gigabytes of a Python process, on Linux."""
    started = time.monotonic()
    # A process between, since the system tells the largest of all children so far.
    between = (
        "import resource, subprocess, sys; "
        "subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=sys.stderr); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    process = subprocess.run(
        [sys.executable, "-c", between, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    kilobytes = int(process.stdout.split()[-1])
    return time.monotonic() - started, kilobytes * 1024 / 1e9


@contextlib.contextmanager
def serve(*arguments: str) -> Iterator[TimedStep]:
    """A Python process that calls `answer`, as a step to take from here."""
    with subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None
        assert answers is not None

        def ask() -> tuple[float, int]:
            requests.write("\n")
            requests.flush()
            line = answers.readline()
            if not line:
                raise RuntimeError(f"the process of {' '.join(arguments)} ended without an answer")
            seconds, peak_bytes = json.loads(line)
            return seconds, peak_bytes

        yield ask


def answer(step: Step) -> None:
    """Takes a step for every line on standard input, until there are no more."""
    for _ in sys.stdin:
        print(json.dumps(timed(step)()), flush=True)


def timed(step: Step) -> TimedStep:
    """A step of this process."""

    def take_step() -> tuple[float, int]:
        started = time.perf_counter()
        step()
        seconds = time.perf_counter() - started
        # Not `getrusage`, whose peak may be that of the process which started this one.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        (kilobytes,) = (line.split()[1] for line in status.splitlines() if "VmHWM" in line)
        return seconds, int(kilobytes) * 1024

    return take_step
