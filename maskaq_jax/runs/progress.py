"""What a run shows while it works: a bar or lines, messages, and the time of each phase."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from rich import progress
from rich.console import Console

from maskaq_jax.storage import whole_files

# Where output is not a terminal, a line of progress at most this often.
_SECONDS_BETWEEN_LINES = 15.0
# At first, compilation takes most of the time and says nothing of what is left.
_SHARE_BEFORE_ESTIMATE = 0.05


class Progress:
    """Shows how much of a run of known work is done, and times its phases.

    Work is counted in units that take about the same time whatever the phase, so that one bar can
    tell when all of it will be done.

    Attributes:
      console: where messages go.
      is_silent: whether nothing is shown and written.
      seconds: time spent in each phase, in earlier starts of the run too, up to `store_seconds`.
    """

    def __init__(
        self,
        seconds_path: Path,
        work_per_unit: dict[str, float],
        total_work: float,
        is_silent: bool = False,
    ):
        """Reads the time of earlier starts.

        Args:
          seconds_path: file of the time each phase has taken.
          work_per_unit: of each phase.
          total_work: of the whole run.
          is_silent: whether to show and write nothing.
        """
        self.console = Console(stderr=True, quiet=is_silent)
        self.is_silent = is_silent
        self._seconds_path = seconds_path
        self._stored_seconds = _read_seconds(seconds_path)
        self.seconds = dict.fromkeys(work_per_unit, 0.0) | self._stored_seconds
        self._work_per_unit = work_per_unit
        self._total = total_work
        self._done_before = self._done = 0.0
        self._started = self._last_line = time.monotonic()
        self._bar = progress.Progress(
            progress.TextColumn("{task.description:<11}"),
            progress.BarColumn(),
            progress.TextColumn("{task.percentage:>3.0f}%"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=total_work)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

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
        if not self.is_silent:
            whole_files.write_json(self._seconds_path, self._stored_seconds)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[Callable[[float], None]]:
        """Times a phase; yields the function to tell of units done."""
        self._bar.update(self._task, description=name)
        counted = time.monotonic()

        def count_seconds() -> None:
            nonlocal counted
            now = time.monotonic()
            self.seconds[name] += now - counted
            counted = now

        def advance(units: float) -> None:
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
        if self.is_silent:
            print(f"process {jax.process_index()}: {text}", file=sys.stderr, flush=True)
        else:
            self.message(text)

    def warn(self, text: str) -> None:
        """Prints a warning above the bar."""
        self.message(f"warning: {text}")

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
            line += f", about {duration(left)} left"
        self.message(line)


def duration(seconds: float) -> str:
    """As a person says it: '75 s', '2 min 05 s', '3 h 20 min'."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 120:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _read_seconds(path: Path) -> dict[str, float]:
    """Of each phase; none where there is no file of them, or a damaged one."""
    try:
        return {name: float(value) for name, value in json.loads(path.read_bytes()).items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}
