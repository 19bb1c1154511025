"""Command line: `python -m maskaq_jax.report --workdir=RUN`.

Writes `report.html` of a finished run again, with what has been measured of it or exported since.
"""

import logging
from collections.abc import Sequence

from maskaq_jax import report
from maskaq_jax.devices import memory
from maskaq_jax.runs import command_line
from maskaq_jax.runs.command_line import Parser, refusing
from maskaq_jax.storage import paths


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes, and says where."""
    logging.getLogger("absl").setLevel(logging.FATAL)  # Orbax warns of what it only reads.
    parser = Parser(
        prog="python -m maskaq_jax.report",
        description="Writes report.html of a finished run: a page to look at.",
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, help="directory of the run")
    options = parser.parse_args(arguments)
    memory.compute_in_32_bits()
    with refusing():
        print(f"wrote {report.write(paths.expanded_path(options.workdir))}")


if __name__ == "__main__":
    command_line.end_at_ctrl_c()
    command_line.start(main)
