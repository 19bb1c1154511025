"""Processes of their own, so that one measurement does not touch the next."""

import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Takes a step and waits for it.
Step = Callable[[], None]
# Takes a step and tells its seconds.
TimedStep = Callable[[], float]


@dataclasses.dataclass
class Served:
    """Steps of another process.

    Attributes:
      step: takes one there.
      peak_bytes: of that process' memory, up to the last step.
    """

    step: TimedStep
    peak_bytes: int = 0


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
def serve(*arguments: str) -> Iterator[Served]:
    """A Python process that calls `answer`, on Linux.

    Its steps raise RuntimeError once the process has ended.
    """
    with subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None
        assert answers is not None

        def take_step() -> float:
            with contextlib.suppress(BrokenPipeError):
                requests.write(b"\n")
            line = answers.readline()
            if not line:
                raise RuntimeError(
                    f"the process of {' '.join(arguments)} ended with status {process.wait()}"
                )
            seconds, served.peak_bytes = json.loads(line)
            return seconds

        served = Served(take_step)
        yield served


def answer(step: TimedStep) -> None:
    """Takes a step for every line on standard input, until there are no more."""
    for _ in sys.stdin:
        seconds = step()
        # Not `getrusage`, whose peak may be that of the process which started this one.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        (kilobytes,) = (line.split()[1] for line in status.splitlines() if "VmHWM" in line)
        print(json.dumps([seconds, int(kilobytes) * 1024]), flush=True)


def timed(step: Step, count: int = 1) -> TimedStep:
    """`step` with its time taken; where it is `count` steps, the seconds of one."""

    def take_step() -> float:
        started = time.perf_counter()
        step()
        return (time.perf_counter() - started) / count

    return take_step
