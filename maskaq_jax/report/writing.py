"""Writes the report of a finished run into its directory."""

import re
from pathlib import Path
from typing import Any

from maskaq_jax.devices import parallel
from maskaq_jax.models import Model
from maskaq_jax.report import gathering, page
from maskaq_jax.runs import directory, inputs
from maskaq_jax.runs.inputs import RunInputs
from maskaq_jax.runs.session import Session
from maskaq_jax.storage import whole_files


def write_at_end(session: Session, variables: Any) -> None:
    """Writes the report of a run that has just finished; one that fails is told of in a line.

    Every host may call it; the main one writes.

    Args:
      session: of the run.
      variables: of Q.
    """
    if not parallel.is_main_process():
        return
    read = session.inputs
    try:
        _write(read.workdir, read.model, variables, read)
    except Exception as error:  # whatever it is, the run's results are there
        told = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
        session.progress.warn(
            f"{directory.REPORT} could not be written: {told} (the run is complete without it; "
            f"python -m maskaq_jax.report --workdir={read.workdir} tries again)"
        )


def write(workdir: Path) -> Path:
    """Writes the report of a finished run again, as after its sensitivity has been measured.

    Without its weights or samples, which may be elsewhere by now, it has less to show and says so.

        >>> print(write(workdir).name)
        report.html

    Returns:
      The path of the page.

    Raises:
      FileNotFoundError: there is no finished run.
      ValueError, OSError: a file can't be read or is damaged, or the page can't be written.
    """
    directory.read_results(workdir)  # which refuses damaged ones before the long work
    model, variables = inputs.load(workdir)
    read: RunInputs | str
    try:
        read = inputs.reopen(workdir)
    except (ValueError, OSError) as error:
        read = str(error)
    return _write(workdir, model, variables, read)


def _write(workdir: Path, model: Model, variables: Any, read: RunInputs | str) -> Path:
    path = workdir / directory.REPORT
    whole_files.write_text(path, page.render(gathering.read(workdir, model, variables, read)))
    return path
