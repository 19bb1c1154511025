"""Processes of their own, so that one measurement does not touch the next."""

import subprocess
import sys
import time


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
