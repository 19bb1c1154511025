"""Tells a run when to save and when to stop: a clock, and the signals that ask it to end."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from maskaq_jax import failures, parallel

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Of a program that was interrupted. BSD's sysexits.h: a temporary failure, try again.
EXIT_STATUS = 75


class Interrupted(Exception):  # noqa: N818  (not an error)
    """The run was asked to stop, and has saved what it needs to continue."""


@contextlib.contextmanager
def catch_termination() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether SIGTERM or Ctrl-C has come since.

    Neither ends the program any more, except a second Ctrl-C. Outside the main thread no signal can
    be caught, and the answer is always no.
    """
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received.is_set
        return

    def receive(number: int, _: object) -> None:
        received.set()
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    before = {number: signal.signal(number, receive) for number in _SIGNALS}
    try:
        yield received.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    disk, would hide the line that says so.
    """
    hooks = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = _unless_disk_is_full(sys.unraisablehook)
    threading.excepthook = _unless_disk_is_full(threading.excepthook)
    try:
        yield
    finally:
        sys.unraisablehook, threading.excepthook = hooks


def _unless_disk_is_full(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """A hook for errors that nobody waits for, which passes on all but those of a full disk."""
    return lambda told: None if failures.find_full_disk(told.exc_value) else hook(told)
