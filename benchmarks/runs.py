"""Whole runs of `maskaq_jax.main`: made once each, side by side, and recorded.

A record has the digest of each run's settings, so what a bench lacks of it can be made later and on
another machine, and what was made with settings that have changed since is made again. Changes of
the code go unnoticed: after one that matters, take the rows out.
"""

import argparse
import concurrent.futures
import contextlib
import csv
import dataclasses
import functools
import hashlib
import importlib
import io
import json
import operator
import os
import queue
import re
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from maskaq_jax import config as config_lib
from maskaq_jax.runs import directory, interruption
from maskaq_jax.runs import results as results_lib
from maskaq_jax.storage import whole_files

# Seconds between two looks at whether to stop.
_PATIENCE = 1.0

# What a run stands for on a bench.
Point = TypeVar("Point")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a bench.

    Attributes:
      name: its own in the bench.
      model: of configs/.
      argument: of the config.
      flags: of the command line, as `--config.samples.num_samples=40`; numbers and strings.
    """

    name: str
    model: str
    argument: str
    flags: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of all settings; it stays the same when fields are added that have their default."""
        config = importlib.import_module(f"configs.{self.model}").get_config(self.argument)
        for flag in self.flags:
            name, _, text = flag.removeprefix("--config.").partition("=")
            kind = type(functools.reduce(operator.getitem, name.split("."), config))
            value = text == "True" if kind is bool else kind(text)
            config.update_from_flattened_dict({name: value})
        return _digest(config_lib.validated(config))

    def directory(self, workdir: Path) -> Path:
        """Where it is made; another one for other settings."""
        return workdir / f"{self.name}_{self.digest}"


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a row of a grid of methods is of."""

    model: str
    weight_bits: int
    activation_bits: int
    method: str
    seed: int

    def run_with(self, argument: str) -> Run:
        """The run that produces the row, by the method's argument to the config."""
        method = re.sub(r"\W+", "_", self.method).strip("_")
        return Run(
            f"{self.model}_w{self.weight_bits}a{self.activation_bits}_{method}_{self.seed}",
            self.model,
            f"w={self.weight_bits},a={self.activation_bits},{argument},seed={self.seed}",
        )


class Record:
    """The rows of a table in a CSV file, by the name of their run.

    Digests of the settings that each was made with are in a JSON file beside it. Rows whose run has
    other settings now are left out, and lost when a row is added.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        run_of: Callable[[dict[str, Any]], Run | None],
    ):
        """Reads what there is.

        Args:
          path: of the CSV file.
          columns: of the table.
          run_of: the run that a row is of; None for one that is none of the bench's any more.
        """
        self.path, self._columns = path, columns
        self.rows: dict[str, dict[str, Any]] = {}
        self._digests: dict[str, str] = {}
        digests_path = path.with_suffix(".json")
        if not (path.is_file() and digests_path.is_file()):
            return
        digests = json.loads(digests_path.read_text(encoding="utf-8"))
        with path.open(newline="", encoding="utf-8") as file:
            for texts in csv.DictReader(file):
                row = {name: _parse(text) for name, text in texts.items()}
                run = run_of(row)
                if run and run.name in digests and digests[run.name] == _digest_today(run):
                    self.rows[run.name] = row
        self._digests = {name: digests[name] for name in self.rows}

    def lacks(self, runs: Iterable[Run]) -> list[Run]:
        """The runs that are not there."""
        return [run for run in runs if run.name not in self.rows]

    def add(self, run: Run, row: dict[str, Any]) -> None:
        """Adds a run, or replaces it."""
        self.rows[run.name] = row
        self._digests[run.name] = run.digest
        self.path.parent.mkdir(parents=True, exist_ok=True)
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows.values())
        # A row without its digest counts as missing, so the order makes a kill between harmless.
        whole_files.write_text(self.path, table.getvalue())
        whole_files.write_json(self.path.with_suffix(".json"), self._digests)


def fill(
    record: Record,
    points: Mapping[Run, Point],
    make_row: Callable[[Point, dict[str, Any]], dict[str, Any]],
    write: Callable[[list[dict[str, Any]]], None],
    workdir: Path,
    jobs: int,
) -> None:
    """Makes the runs that a record lacks; SIGTERM or Ctrl-C makes them save what they have.

    Args:
      record: gets the rows.
      points: what each run of the bench stands for.
      make_row: of a point and its results.
      write: called with all rows, at the start and whenever there is one more, so that a stopped
        bench leaves what it has.
      workdir: of the runs.
      jobs: runs at a time.

    Raises:
      RuntimeError: some runs failed; it names their logs.
      SystemExit: with status 75, as a run's own, where it was told to stop.
    """
    missing = record.lacks(points)
    print(f"{len(points) - len(missing)} of {len(points)} runs are in {record.path}", flush=True)
    if record.rows:
        write(list(record.rows.values()))
    with told_to_stop() as is_terminated:
        for run, results in finish_all(missing, workdir, jobs, is_terminated):
            record.add(run, make_row(points[run], results))
            seconds = total_seconds(results)
            print(f"{run.name}: {final_figure(results)} in {seconds} s", flush=True)
            write(list(record.rows.values()))


@contextlib.contextmanager
def told_to_stop() -> Iterator[Callable[[], bool]]:
    """Tells whether SIGTERM or Ctrl-C has come, for `finish_all`; what that interrupts ends here.

    Raises:
      SystemExit: with status 75, as a run's own, where it was told to stop.
    """
    try:
        with interruption.catch_termination() as is_terminated:
            yield is_terminated
    except interruption.Interrupted:
        print("stopped: the same command continues from here", file=sys.stderr, flush=True)
        sys.exit(interruption.EXIT_STATUS)


def finish_all(
    runs: Iterable[Run],
    workdir: Path,
    jobs: int,
    is_terminated: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Makes runs side by side, each on cores of its own, and yields their results as they come.

    A run that fails does not keep others from being made.

    Args:
      runs: to be made.
      workdir: of the runs.
      jobs: runs at a time.
      is_terminated: asked every second whether to stop; runs then save what they have.

    Raises:
      RuntimeError: some runs failed; it names their logs.
      Interrupted: it was asked to stop.
    """
    cores = split_cores(jobs)
    free: queue.SimpleQueue[frozenset[int] | None] = queue.SimpleQueue()
    for share in cores:
        free.put(share)
    processes = Processes()

    def finish_next(run: Run) -> tuple[Run, dict[str, Any]]:
        share = free.get()
        try:
            return run, finish(run, workdir, share, processes)
        finally:
            free.put(share)

    failures = []
    with concurrent.futures.ThreadPoolExecutor(len(cores)) as pool:
        try:
            submitted = [pool.submit(finish_next, run) for run in runs]
            waiting = set(submitted)
            while waiting:
                done, waiting = concurrent.futures.wait(
                    waiting, _PATIENCE, concurrent.futures.FIRST_COMPLETED
                )
                for future in filter(done.__contains__, submitted):
                    try:
                        yield future.result()
                    except RuntimeError as error:
                        failures.append(str(error))
                if is_terminated():
                    raise interruption.Interrupted
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.terminate()
            raise
    if failures:
        raise RuntimeError(f"{len(failures)} runs failed:\n" + "\n".join(failures))


class Processes:
    """Those that are running; after `terminate` none starts."""

    def __init__(self) -> None:
        """None is running."""
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] | None = set()

    def call(self, command: list[str], log: Path, cores: frozenset[int] | None) -> int:
        """Runs a command to its end, on these cores; its return code.

        Raises:
          RuntimeError: none may start any more.
        """
        with log.open("ab") as output, self._lock:
            if self._running is None:
                raise RuntimeError(f"{log}: not started")
            process = subprocess.Popen(command, stdout=output, stderr=output)
            self._running.add(process)
        if cores is not None:
            # Before it has threads, which take after it; unless it is gone already.
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, cores)
        returned = process.wait()
        with self._lock:
            if self._running is not None:
                self._running.discard(process)
        return returned

    def terminate(self) -> None:
        """Asks all to end; runs of `maskaq_jax.main` save what they have then."""
        with self._lock:
            for process in self._running or ():
                process.terminate()
            self._running = None


def finish(
    run: Run,
    workdir: Path,
    cores: frozenset[int] | None = None,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """The results of a run: what is done is read, what was stopped continues.

    Args:
      run: to be made.
      workdir: the bench's.
      cores: it may use; None for all.
      processes: of which its process is one.

    Raises:
      RuntimeError: the run failed, or its config was edited while the bench was running.
    """
    workdir = run.directory(workdir)
    results, log = workdir / directory.RESULTS, workdir.with_name(f"{workdir.name}.log")
    if not results.is_file():
        workdir.parent.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "maskaq_jax.main", f"--workdir={workdir}"),
            *(f"--config=configs/{run.model}.py:{run.argument}", *run.flags),
        ]
        returned = (processes or Processes()).call(command, log, cores)
        if returned:
            raise RuntimeError(f"{run.name} ended with status {returned}: see {log}")
    try:
        digest = _digest(directory.read_settings(workdir))
    except ValueError:  # of a version with other fields
        digest = None
    if digest != run.digest:
        raise RuntimeError(
            f"{workdir} was made with other settings than the bench has: were configs edited "
            "while it was running? Start it again"
        )
    return json.loads(results.read_text(encoding="utf-8"))


def parse_bits(text: str) -> list[tuple[int, int]]:
    """An argument's bits of weights and activations: 3x3,4x8."""
    if not re.fullmatch(r"\d+x\d+(,\d+x\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r}, where bits are as 3x3,4x8")
    pairs = (pair.split("x") for pair in text.split(","))
    return [(int(weight_bits), int(activation_bits)) for weight_bits, activation_bits in pairs]


def split_names(
    parser: argparse.ArgumentParser, what: str, text: str, known: Iterable[str]
) -> list[str]:
    """An argument's names, with commas between; the program ends where one is not known."""
    names, options = text.split(","), list(known)
    if unknown := set(names) - set(options):
        parser.error(f"no {what} {unknown.pop()!r}; there are {', '.join(options)}")
    return names


def final_figure(results: Mapping[str, Any]) -> float | None:
    """Of Q, by the first metric of its task; None where there were no labels."""
    metric = results_lib.shown_metrics(results)[0]
    return results_lib.figures_by_model(results, metric)["quantized"]


def total_seconds(results: dict[str, Any]) -> float:
    """Of all phases of a run."""
    return round(sum(results["seconds"].values()), 1)


def describe(values: Sequence[float]) -> str:
    """Mean, and standard deviation where there are several."""
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def split_cores(shares: int) -> list[frozenset[int] | None]:
    """The machine's cores in equal shares; all of them, for one or where they can't be chosen."""
    if shares == 1 or not hasattr(os, "sched_getaffinity"):
        return [None] * shares
    cores = sorted(os.sched_getaffinity(0))
    return [frozenset(cores[share::shares]) or None for share in range(shares)]


def _digest_today(run: Run) -> str | None:
    """None where its config or a field has left since, or a value is refused by now."""
    try:
        return run.digest
    except (ModuleNotFoundError, KeyError, config_lib.ConfigError):
        return None


def _parse(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _digest(settings: config_lib.Config) -> str:
    text = json.dumps(config_lib.identity(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
