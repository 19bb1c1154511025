"""Whole runs of `maskaq_jax.main`, each in a directory of its own, made once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def finish(directory: Path, config: str, *flags: str) -> dict[str, Any]:
    """The results of a run: what is done is read, what was stopped continues.

    Args:
      directory: of the run.
      config: file of `configs/` with its arguments, as `vit_fashion.py:w=3,seed=1`.
      flags: others of the command line.

    Raises:
      CalledProcessError: the run failed.
    """
    results = directory / "results.json"
    if not results.is_file():
        subprocess.run(
            [
                *(sys.executable, "-m", "maskaq_jax.main"),
                *(f"--config=configs/{config}", f"--workdir={directory}", *flags),
            ],
            check=True,
        )
    return json.loads(results.read_text(encoding="utf-8"))
