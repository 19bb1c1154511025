"""What is measured along the way: `metrics.jsonl`, and the same for TensorBoard."""

import json
import sys
from pathlib import Path
from typing import Any

from maskaq_jax.runs import directory
from maskaq_jax.storage import whole_files


class Metrics:
    """Appends values as they come."""

    def __init__(self, workdir: Path, is_silent: bool = False):
        """Opens the files.

        Args:
          workdir: of the run.
          is_silent: whether to write nothing.
        """
        self._is_silent = is_silent
        if not is_silent:
            self._path = workdir / directory.METRICS
            self._file = self._path.open("a", encoding="utf-8")
            self._events = _summary_writer(workdir)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *exception: object) -> None:
        if not self._is_silent:
            self._file.close()
            self._events.close()

    def write(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Appends values of a step of a phase to metrics.jsonl and to the TensorBoard events."""
        if self._is_silent:
            return
        self._file.write(json.dumps({"phase": phase, "step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{phase}/{name}", value, step)

    def forget_finetuning(self, first_epoch: int) -> None:
        """Drops values of fine-tuning from that epoch on: they will be written again."""
        if not self._is_silent:
            self._file.close()
            _trim(self._path, first_epoch)
            self._file = self._path.open("a", encoding="utf-8")


def _trim(path: Path, first_epoch: int) -> None:
    """Drops later epochs, which will be written again, and what is damaged or half written."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            is_kept = record["phase"] != "finetuning" or record["step"] < first_epoch
        except (ValueError, TypeError, LookupError):
            continue
        if is_kept:
            kept.append(line + "\n")
    whole_files.write_text(path, "".join(kept))


def _summary_writer(workdir: Path) -> Any:
    """A TensorBoard writer, imported without torch.

    Where torch is installed, tensorboardX loads it in order to accept its tensors; a run has none.
    """
    torch = sys.modules.get("torch")
    sys.modules["torch"] = None  # type: ignore[assignment]  # importing it fails
    try:
        from tensorboardX import SummaryWriter
    finally:
        if torch is None:
            del sys.modules["torch"]
        else:
            sys.modules["torch"] = torch
    # Without a limit: where its thread fails, as on a full disk, a queue of ten makes runs wait.
    return SummaryWriter(str(workdir), max_queue=0)
