"""Whole runs of `maskaq_jax.main`: made once each, side by side, and recorded.

A record has the digest of each run's settings, so what a bench lacks of it can be made later and on
another machine, and what was made with settings that have changed since is made again.
"""

import concurrent.futures
import csv
import dataclasses
import hashlib
import importlib
import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from maskaq_jax import config as config_lib


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a bench.

    Attributes:
      name: its own in the bench.
      model: of configs/.
      argument: of the config.
      flags: of the command line, as `--config.samples.num_samples=40`; values are integers.
    """

    name: str
    model: str
    argument: str
    flags: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of all settings."""
        config = importlib.import_module(f"configs.{self.model}").get_config(self.argument)
        for flag in self.flags:
            name, _, value = flag.removeprefix("--config.").partition("=")
            config.update_from_flattened_dict({name: int(value)})
        values = json.dumps(config_lib.as_dict(config_lib.validated(config)), sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()[:12]

    def directory(self, workdir: Path) -> Path:
        """Where it is made; another one for other settings."""
        return workdir / f"{self.name}_{self.digest}"


class Record:
    """The rows of a table in a CSV file, by the name of their run.

    Digests of the settings that each had are in a JSON file beside it.
    """

    def __init__(self, path: Path, columns: Sequence[str]):
        """Reads what there is."""
        self.path, self._columns = path, columns
        self.rows: dict[str, dict[str, Any]] = {}
        self._digests: dict[str, str] = {}
        if path.is_file():
            self._digests = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            with path.open(newline="", encoding="utf-8") as file:
                rows = [
                    {name: _parse(text) for name, text in row.items()}
                    for row in csv.DictReader(file)
                ]
            self.rows = dict(zip(self._digests, rows, strict=True))

    def lacks(self, runs: Iterable[Run]) -> list[Run]:
        """The runs that are not there, or were made with other settings than they have now."""
        return [run for run in runs if self._digests.get(run.name) != run.digest]

    def add(self, run: Run, row: dict[str, Any]) -> None:
        """Adds a run, or replaces it."""
        self.rows[run.name], self._digests[run.name] = row, run.digest
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self.rows.values())
        digests = {name: self._digests[name] for name in self.rows}
        text = json.dumps(digests, indent=2) + "\n"
        self.path.with_suffix(".json").write_text(text, encoding="utf-8")


def finish_all(
    runs: Iterable[Run], workdir: Path, jobs: int
) -> Iterable[tuple[Run, dict[str, Any]]]:
    """Makes runs side by side, each on cores of its own, and yields their results as they come.

    Raises:
      CalledProcessError: a run failed; no other one starts then.
    """
    cores = split_cores(jobs)
    free: queue.SimpleQueue[frozenset[int] | None] = queue.SimpleQueue()
    for share in cores:
        free.put(share)

    def finish_next(run: Run) -> tuple[Run, dict[str, Any]]:
        share = free.get()
        try:
            argument = f"{run.model}.py:{run.argument}"
            return run, finish(run.directory(workdir), argument, *run.flags, cores=share)
        finally:
            free.put(share)

    with concurrent.futures.ThreadPoolExecutor(len(cores)) as pool:
        futures = [pool.submit(finish_next, run) for run in runs]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


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


def _parse(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
