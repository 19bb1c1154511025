"""Tells a run when to save and when to stop: a clock, and the signals that ask it to end."""

import collections
import contextlib
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from maskaq_jax.devices import parallel
from maskaq_jax.storage import failures

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# No signal has this number: it ends the thread that waits for them.
_NOTHING = b"\0"
# Questions by which the next wait is told.
_GAPS = 8

# Of a program that was interrupted. BSD's sysexits.h: a temporary failure, try again.
EXIT_STATUS = 75


class Interrupted(Exception):  # noqa: N818  (not an error)
    """The run was asked to stop, and has saved what it needs to continue."""


class Questions:
    """Whether the run is asked to stop; remembers how long it took between two questions."""

    def __init__(self, received: threading.Event):
        self._received = received
        self._asked: float | None = None
        self._gaps: collections.deque[float] = collections.deque(maxlen=_GAPS)

    def __call__(self) -> bool:
        """The answer."""
        now = time.monotonic()
        if self._asked is not None:
            self._gaps.append(now - self._asked)
        self._asked = now
        return self._received.is_set()

    def longest_wait(self) -> float | None:
        """Seconds until the next question, and what is saved before it, at most, by the last ones.

        None where there were none, or the next one is later than they were: what a program that is
        being compiled takes is not known.
        """
        if self._asked is None or not self._gaps:
            return None
        longest = max(self._gaps)
        return None if time.monotonic() - self._asked > longest else longest


@contextlib.contextmanager
def catch_termination(
    end: Callable[[int], object] | None = None,
) -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether SIGTERM or Ctrl-C has come since.

    Neither ends the program any more, except a second Ctrl-C. Both are answered at once, by a
    thread of their own: where the main one computes, Python's handlers wait for it. Outside the
    main thread no signal can be caught, and the answer is always no.

    Args:
      end: called from that thread at a second Ctrl-C, and ends the program; without it the second
        one does what Ctrl-C did before, as to raise KeyboardInterrupt.
    """
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received.is_set
        return
    questions = Questions(received)

    def receive(number: int, _: object) -> None:
        received.set()
        if number == signal.SIGINT and end is None:
            signal.signal(number, before[signal.SIGINT])

    def answer(number: int) -> None:
        if number not in _SIGNALS:
            return
        received.set()
        if number not in answered:
            answered.add(number)
            _say(_answer(number, questions.longest_wait()))
        elif number == signal.SIGINT and end is not None:
            end(number)

    answered: set[int] = set()
    before = {number: signal.signal(number, receive) for number in _SIGNALS}
    try:
        with _told_of_signals(answer):
            yield questions
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _answer(number: int, wait: float | None) -> str:
    """What is said of a signal.

    Args:
      number: of the signal.
      wait: seconds until the run has saved, at most; None where that is not known.
    """
    how_long = "after the step at hand" if wait is None else f"up to {math.ceil(wait)} s"
    again = "; Ctrl-C again to stop now" if number == signal.SIGINT else ""
    return f"{signal.Signals(number).name}: saving, {how_long}{again}"


def _say(text: str) -> None:
    # Below what the terminal shows of Ctrl-C itself, and of the bar.
    line_break = "\n" if sys.stderr.isatty() else ""
    with contextlib.suppress(OSError, ValueError):  # nobody reads any more
        print(f"{line_break}{text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _told_of_signals(answer: Callable[[int], None]) -> Iterator[None]:
    """Has a thread call `answer` with the number of each signal that has a handler, as it comes."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)

    def listen() -> None:
        while (number := os.read(reads, 1)) not in (b"", _NOTHING):
            answer(number[0])

    thread = threading.Thread(target=listen, daemon=True, name="signals")
    thread.start()
    before = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        os.write(writes, _NOTHING)
        thread.join()
        os.close(reads)
        os.close(writes)


class Clock:
    """When to save and when to stop. Hosts agree on every answer, so all of them must ask."""

    def __init__(self, seconds: float, is_terminated: Callable[[], bool]):
        """Starts the clock.

        Args:
          seconds: between two saves, at least.
          is_terminated: whether this host is asked to stop.
        """
        self._seconds, self._is_terminated = seconds, is_terminated
        self._saved = time.monotonic()

    def is_stopping(self) -> bool:
        """Whether any host is asked to stop."""
        return parallel.any_host(self._is_terminated())

    def stop_if_asked(self) -> None:
        """Raises `Interrupted` if any host is asked to stop, where there is nothing to save."""
        if self.is_stopping():
            raise Interrupted

    def save(self, save: Callable[[], None]) -> None:
        """Saves, and counts from now."""
        save()
        self._saved = time.monotonic()

    def save_if_asked(self, save: Callable[[], None], is_last: bool = False) -> None:
        """Saves where that is due, at the end, and before a stop.

        Args:
          save: what to call.
          is_last: whether this is the end of what there is to save.

        Raises:
          Interrupted: the run is asked to stop, and has saved.
        """
        is_stopping = self.is_stopping()
        if is_stopping or is_last or self._is_due():
            self.save(save)
        if is_stopping:
            raise Interrupted

    def _is_due(self) -> bool:
        """Whether the last save is long enough ago on any host."""
        return parallel.any_host(time.monotonic() - self._saved >= self._seconds)


@contextlib.contextmanager
def quiet_about_a_full_disk() -> Iterator[None]:
    """Lets threads that write in the background fail without a word where the disk has no room.

    That is raised again where the run waits for them. Their own tracebacks, hundreds for one full
    disk, would hide the line that says so. Event loops and executors log them instead.
    """
    hooks = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = _unless_writing_failed(sys.unraisablehook)
    threading.excepthook = _unless_writing_failed(threading.excepthook)
    handlers = [*logging.getLogger().handlers, *filter(None, [logging.lastResort])]
    for handler in handlers:
        handler.addFilter(_is_of_something_else)
    try:
        yield
    finally:
        sys.unraisablehook, threading.excepthook = hooks
        for handler in handlers:
            handler.removeFilter(_is_of_something_else)


def _is_of_something_else(record: logging.LogRecord) -> bool:
    """Whether a record tells of anything but a full disk."""
    error = record.exc_info[1] if record.exc_info else None
    return failures.find_full_disk(error or OSError(record.getMessage())) is None


def _unless_writing_failed(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """A hook for errors that nobody waits for, which passes on all but those of a full disk.

    Of many arrays, TensorStore tells each by itself to an event loop that has ended by then, with
    the first of them that failed.
    """

    def tell(told: Any) -> object:
        error = told.exc_value
        is_late = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
        return None if is_late or failures.find_full_disk(error) else hook(told)

    return tell
