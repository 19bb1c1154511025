"""Tells a run when to save and when to stop: a clock, and the signals that ask it to end."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from maskaq_jax import parallel

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
    """Asked after every dispatch; the hosts answer alike, so all of them must ask."""

    def __init__(self, seconds: float, is_terminated: Callable[[], bool]):
        """Args: least seconds between two saves; whether the run is asked to stop."""
        self._seconds, self._is_terminated = seconds, is_terminated
        self._saved = time.monotonic()

    def is_stopping(self) -> bool:
        """Whether any host is asked to stop."""
        return parallel.any_host(self._is_terminated())

    def is_due(self) -> bool:
        """Whether the last save is long enough ago on any host."""
        return parallel.any_host(time.monotonic() - self._saved >= self._seconds)

    def restart(self) -> None:
        """Counts from now, when something was saved."""
        self._saved = time.monotonic()


@contextlib.contextmanager
def quiet_background() -> Iterator[None]:
    """Lets threads that write in the background fail without a word.

    What stops them is raised again where the run waits for them. Their own tracebacks, hundreds for
    one full disk, would hide the line that says so.
    """
    hooks = sys.unraisablehook, threading.excepthook
    sys.unraisablehook, threading.excepthook = (lambda _: None), (lambda _: None)
    try:
        yield
    finally:
        sys.unraisablehook, threading.excepthook = hooks
