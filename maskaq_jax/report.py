"""What a run shows and leaves behind: progress, metrics and results."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from maskaq_jax import files, run_files

# Where output is not a terminal, a line of progress at most this often.
_SECONDS_BETWEEN_LINES = 15.0
# At first, compilation takes most of the time and says nothing of what is left.
_SHARE_BEFORE_ESTIMATE = 0.05


class Reporter:
    """Shows progress of a run of known work, times its phases, and writes metrics as they come.

    Work is counted in units that take about the same time whatever the phase, so that one bar can
    tell when all of it will be done.

    Attributes:
      console: where messages go.
      seconds: time spent in each phase, in earlier starts of the run too, up to `store_seconds`.
    """

    def __init__(
        self,
        workdir: Path,
        work_per_unit: dict[str, float],
        total_work: float,
        is_silent: bool = False,
    ):
        """Opens the files of metrics.

        Args:
          workdir: of the run.
          work_per_unit: of each phase.
          total_work: of the whole run.
          is_silent: whether to show and write nothing.
        """
        self.console = Console(stderr=True, quiet=is_silent)
        self._seconds_path = workdir / run_files.SECONDS
        self._stored_seconds = _read_seconds(self._seconds_path)
        self.seconds = dict.fromkeys(work_per_unit, 0.0) | self._stored_seconds
        self._work_per_unit = work_per_unit
        self._is_silent = is_silent
        if not is_silent:
            self._metrics_path = workdir / run_files.METRICS
            self._metrics = self._metrics_path.open("a", encoding="utf-8")
            self._events = _summary_writer(workdir)
        self._total = total_work
        self._done_before = self._done = 0.0
        self._started = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description:<11}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=total_work)

    def __enter__(self) -> "Reporter":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()
        if not self._is_silent:
            self._metrics.close()
            self._events.close()

    def forget_metrics(self, first_epoch: int) -> None:
        """Drops metrics of fine-tuning from that epoch on: they will be written again."""
        if not self._is_silent:
            self._metrics.close()
            _trim_metrics(self._metrics_path, first_epoch)
            self._metrics = self._metrics_path.open("a", encoding="utf-8")

    def resume(self, work: float) -> None:
        """Counts work that earlier starts of this run have done."""
        self._done_before += work
        self._add(work)

    def keep(self, name: str, units: int) -> None:
        """Counts units of a phase that an earlier start of this run has done."""
        self.resume(units * self._work_per_unit[name])

    def store_seconds(self, *phases: str) -> None:
        """Has a later start count the time of these phases, whose work it will find done."""
        self._stored_seconds |= {name: self.seconds[name] for name in phases}
        if not self._is_silent:
            files.write_json(self._seconds_path, self._stored_seconds)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[Callable[[int], None]]:
        """Times a phase; yields the function to tell of units done."""
        self._bar.update(self._task, description=name)
        counted = time.monotonic()

        def count_seconds() -> None:
            nonlocal counted
            now = time.monotonic()
            self.seconds[name] += now - counted
            counted = now

        def advance(units: int) -> None:
            count_seconds()
            self._add(units * self._work_per_unit[name])
            self._print_line(name)

        try:
            yield advance
        finally:
            count_seconds()

    def message(self, text: str) -> None:
        """Prints a line above the bar."""
        # As it is: a path may hold what rich takes for markup.
        self.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def message_of_process(self, text: str) -> None:
        """Prints what this process alone knows, on all of them."""
        if self._is_silent:
            print(f"process {jax.process_index()}: {text}", file=sys.stderr, flush=True)
        else:
            self.message(text)

    def warn(self, text: str) -> None:
        """Prints a warning above the bar."""
        self.message(f"warning: {text}")

    def metrics(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Appends values to metrics.jsonl and to the TensorBoard events."""
        if self._is_silent:
            return
        record = {"phase": phase, "step": step, **values}
        self._metrics.write(json.dumps(record) + "\n")
        self._metrics.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{phase}/{name}", value, step)

    def _add(self, work: float) -> None:
        self._done = min(self._done + work, self._total)
        self._bar.update(self._task, completed=self._done)

    def _print_line(self, name: str) -> None:
        now = time.monotonic()
        if self.console.is_terminal or now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        share = self._done / self._total
        line = f"{name}: {100 * share:.0f}% of the run done"
        done_now = self._done - self._done_before
        if done_now > _SHARE_BEFORE_ESTIMATE * self._total:
            left = (self._total - self._done) * (now - self._started) / done_now
            line += f", about {_duration(left)} left"
        self.message(line)


def _read_seconds(path: Path) -> dict[str, float]:
    """Of each phase; none where there is no file of them, or a damaged one."""
    try:
        return {name: float(value) for name, value in json.loads(path.read_bytes()).items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def _trim_metrics(path: Path, first_epoch: int) -> None:
    """Drops later epochs, which will be written again, and what is damaged or half written."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            is_kept = record["phase"] != "finetuning" or record["step"] < first_epoch
        except (ValueError, TypeError, LookupError):
            continue
        if is_kept:
            kept.append(line + "\n")
    files.write_text(path, "".join(kept))


def _summary_writer(workdir: Path) -> Any:
    """A TensorBoard writer, imported without torch.

    Where torch is installed, tensorboardX loads it in order to accept its tensors; a run has none.
    """
    torch = sys.modules.get("torch")
    sys.modules["torch"] = None  # type: ignore[assignment]  # importing it fails
    try:
        from tensorboardX import SummaryWriter
    finally:
        if torch is None:
            del sys.modules["torch"]
        else:
            sys.modules["torch"] = torch
    # Without a limit: where its thread fails, as on a full disk, a queue of ten makes runs wait.
    return SummaryWriter(str(workdir), max_queue=0)


def print_results(console: Console, results: dict[str, Any]) -> None:
    """The table at the end: accuracies, and the time each phase took."""
    bits = f"W{results['weight_bits']}A{results['activation_bits']}"
    images = "real images" if results["method"] == "real" else "no data"
    table = Table(
        title=f"{results['method']} at {bits}, seed {results['seed']}", title_justify="left"
    )
    table.add_column("model")
    table.add_column("top-1 %", justify="right")
    for name, model in (
        ("fp_top1", "full precision"),
        ("calibrated_top1", f"{bits}, calibrated only"),
        ("quantized_top1", f"{bits}, fine-tuned with {images}"),
    ):
        top1 = results[name]
        table.add_row(model, "not measured" if top1 is None else f"{top1:.2f}")
    if "agreement" in results:
        table.add_row("same class as full precision, %", f"{results['agreement']:.2f}")
    if "feature_cosine" in results:
        table.add_row("cosine with its features", f"{results['feature_cosine']:.4f}")
    table.add_section()
    for phase, seconds in results["seconds"].items():
        table.add_row(f"time of {phase}", _duration(seconds))
    console.print(table)


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    return f"{seconds} s" if seconds < 90 else f"{seconds // 60} min {seconds % 60:02d} s"
