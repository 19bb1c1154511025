"""Whole runs of `maskaq_jax.main`, each in a directory of its own, made once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def finish(
    directory: Path, config: str, *flags: str, cores: frozenset[int] | None = None
) -> dict[str, Any]:
    """The results of a run: what is done is read, what was stopped continues.

    Args:
      directory: of the run.
      config: file of `configs/` with its arguments, as `vit_fashion.py:w=3,seed=1`.
      flags: others of the command line.
      cores: it may use; None for all.

    Raises:
      CalledProcessError: the run failed.
    """
    results = directory / "results.json"
    if not results.is_file():
        directory.parent.mkdir(parents=True, exist_ok=True)
        with directory.with_suffix(".log").open("a", encoding="utf-8") as log:
            command = [
                *(sys.executable, "-m", "maskaq_jax.main"),
                *(f"--config=configs/{config}", f"--workdir={directory}", *flags),
            ]
            with subprocess.Popen(command, stdout=log, stderr=log) as process:
                if cores is not None:
                    # Before it has threads, which take after it.
                    os.sched_setaffinity(process.pid, cores)
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, command)
    return json.loads(results.read_text(encoding="utf-8"))


def split_cores(shares: int) -> list[frozenset[int] | None]:
    """The machine's cores in equal shares; all of them, for one or where they can't be chosen."""
    if shares == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * shares
    cores = sorted(os.sched_getaffinity(0))
    return [frozenset(cores[share::shares]) or None for share in range(shares)]
