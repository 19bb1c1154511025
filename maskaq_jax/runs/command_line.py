"""How command lines tell of a mistake: in one line, and by their exit status."""

import argparse
import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO

FAILURE = 1
USAGE_ERROR = 2
# Seconds after which a signal that was lost in a finalizer is sent again: by then most have ended,
# and in one that has not it is lost and sent once more.
_UNTIL_IT_COMES_AGAIN = 0.05
# As shells count programs that a signal has ended.
ENDED_BY = 128


def start(program: Callable[[], object]) -> None:
    """Calls a program; however it ends, no traceback of ours is left.

    Names that the terminal's encoding lacks are escaped, and who stops to read or presses Ctrl-C
    gets a quiet end.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (for as long as we run)
        # A name that the terminal's encoding lacks is no reason to fail.
        getattr(sys, name).reconfigure(errors="backslashreplace")
    try:
        try:
            program()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nstopped: nothing half written is left", file=sys.stderr)
        sys.exit(ENDED_BY + signal.SIGINT)
    except BrokenPipeError:  # who read has read enough
        _write_nowhere(sys.stdout, sys.stderr)
        sys.exit(ENDED_BY + signal.SIGPIPE)
    except OSError as error:  # of the streams themselves, as of a full disk
        with contextlib.suppress(BrokenPipeError):
            tell(str(error))
        _write_nowhere(sys.stdout)
        sys.exit(FAILURE)


def _write_nowhere(*streams: TextIO) -> None:
    """What is left to be written, which the interpreter would try again at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())


def end_at_ctrl_c() -> None:
    """Has Ctrl-C end the program: in order by `start` the first time, at once the second."""

    def end_at_once(number: int, frame: object) -> NoReturn:
        del frame
        os._exit(ENDED_BY + number)

    def end_in_order(number: int, frame: object) -> NoReturn:
        del frame
        while timers:  # or that one would count as the second
            timers.pop().cancel()
        signal.signal(number, end_at_once)
        raise KeyboardInterrupt

    def come_again(told: Any) -> None:
        # It came in a finalizer or a callback of C, which no exception leaves.
        if not isinstance(told.exc_value, KeyboardInterrupt):
            hook(told)
            return
        signal.signal(signal.SIGINT, end_in_order)
        timers.append(threading.Timer(_UNTIL_IT_COMES_AGAIN, os.kill, (os.getpid(), signal.SIGINT)))
        timers[-1].daemon = True
        timers[-1].start()

    timers: list[threading.Timer] = []

    hook = sys.unraisablehook
    sys.unraisablehook = come_again
    signal.signal(signal.SIGINT, end_in_order)


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Refuses what was given where an error says that it can't be read or doesn't fit."""
    try:
        yield
    except BrokenPipeError:
        raise  # `start` knows what it means
    except (ValueError, OSError) as error:
        refuse(str(error))


class Parser(argparse.ArgumentParser):
    """One whose mistakes are answered in one line."""

    def error(self, message: str) -> NoReturn:
        """Refuses what was given."""
        refuse(message)


def refuse(message: str) -> NoReturn:
    """One line, and the exit status of wrong usage."""
    end(message, USAGE_ERROR)


def end(message: str, status: int) -> NoReturn:
    """One line, and an exit status."""
    tell(message)
    sys.exit(status)


def tell(message: str) -> None:
    """One line, whatever the message is broken into."""
    try:
        print("error: " + re.sub(r"\s+", " ", message).strip(), file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise  # `start` knows what it means
    except OSError:  # nobody can be told; the exit status is what is left
        _write_nowhere(sys.stderr)
