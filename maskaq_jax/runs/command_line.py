"""How command lines tell of a mistake: in one line, and by their exit status."""

import argparse
import re
import sys
from typing import NoReturn

FAILURE = 1
USAGE_ERROR = 2


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
