"""How command lines tell of a mistake: in one line, and by their exit status."""

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

FAILURE = 1
USAGE_ERROR = 2
# As shells count programs that a signal has ended.
ENDED_BY = 128


def start(program: Callable[[], object]) -> None:
    """Calls a program; however it ends, no traceback of ours is left.

    Names that the terminal's encoding lacks are escaped, and who stops to read or presses Ctrl-C
    gets a quiet end.
    """
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is no reason to fail.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            program()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nstopped: nothing half written is left", file=sys.stderr)
        sys.exit(ENDED_BY + signal.SIGINT)
    except BrokenPipeError:
        # Who read has read enough; the interpreter would try once more at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        sys.exit(ENDED_BY + signal.SIGPIPE)


def end_at_ctrl_c() -> None:
    """Has Ctrl-C end the program: in order by `start` the first time, at once the second."""

    def end_at_once(number: int, frame: object) -> NoReturn:
        del frame
        os._exit(ENDED_BY + number)

    def end_in_order(number: int, frame: object) -> NoReturn:
        del frame
        signal.signal(number, end_at_once)
        raise KeyboardInterrupt

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
    print("error: " + re.sub(r"\s+", " ", message).strip(), file=sys.stderr, flush=True)
