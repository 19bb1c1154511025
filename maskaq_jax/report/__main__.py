"""Command line: `python -m maskaq_jax.report --workdir=RUN`.

Writes `report.html` of a finished run again, with what has been measured of it or exported since.
"""

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from maskaq_jax import report
from maskaq_jax.storage import paths

_USAGE_ERROR = 2


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as `maskaq_jax.main` does."""

    def error(self, message: str) -> NoReturn:
        _refuse(message)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes, and says where."""
    logging.getLogger("absl").setLevel(logging.FATAL)  # Orbax warns of what it only reads.
    parser = _Parser(
        prog="python -m maskaq_jax.report",
        description="Writes report.html of a finished run: a page to look at.",
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, help="directory of the run")
    options = parser.parse_args(arguments)
    try:
        print(f"wrote {report.write(paths.expanded_path(options.workdir))}")
    except (ValueError, OSError) as error:
        _refuse(str(error))


def _refuse(message: str) -> NoReturn:
    """One line, and the exit status of wrong usage."""
    print("error: " + re.sub(r"\s+", " ", message).strip(), file=sys.stderr, flush=True)
    sys.exit(_USAGE_ERROR)


if __name__ == "__main__":
    main()
