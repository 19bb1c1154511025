"""Tables of methods compared over seeds, and the page that they are written into."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

# Points that real images bring over noise, below which a share of them says nothing.
_LEAST_GAP = 1.0
# Around the tables in the page.
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def write(page: Path, tables: Iterable[str]) -> None:
    """Puts the tables between the marks of a page, in the place of what is there.

    A page that isn't there yet becomes one of tables alone.
    """
    text = page.read_text(encoding="utf-8") if page.is_file() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + "\n\n".join([BEGIN, *tables, END]) + after, encoding="utf-8")


class Shown(NamedTuple):
    """What of a row is compared.

    Attributes:
      calibrated: column of the figure before training.
      final: column of the figure that counts.
      title: of the latter.
    """

    calibrated: str
    final: str
    title: str


TOP1 = Shown("calibrated_top1", "top1", "top-1")


def compare(
    title: str,
    by_method: Mapping[str, Mapping[int, dict[str, Any]]],
    shown: Shown = TOP1,
) -> str:
    """A heading, and a line for each method that has rows.

    Args:
      title: of the table.
      by_method: for each method, the row of each seed, with `seconds` and what is shown. All are
        compared with 'noise', 'real' and 'maskaq', where those are among them.
      shown: figures in percent.
    """
    lines = [
        f"### {title}\n",
        f"| method | seeds | calibrated | {shown.title} | recovery | against `noise` "
        "| against `maskaq` | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    figures = {
        method: {seed: row[shown.final] for seed, row in by_seed.items()}
        for method, by_seed in by_method.items()
    }
    noise, real, best = (figures.get(method, {}) for method in ("noise", "real", "maskaq"))
    for method, by_seed in by_method.items():
        if not by_seed:
            continue
        own = figures[method]
        recovery = [
            (own[seed] - noise[seed]) / (real[seed] - noise[seed])
            for seed in own.keys() & noise.keys() & real.keys()
            if real[seed] - noise[seed] >= _LEAST_GAP
        ]
        seconds = statistics.median(row["seconds"] for row in by_seed.values())
        lines.append(
            f"| {method} | {len(by_seed)} "
            f"| {show(row[shown.calibrated] for row in by_seed.values())} "
            f"| {show(own.values())} | {show(recovery, 3)} "
            f"| {show_difference(own, noise)} | {show_difference(own, best)} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def show(values: Iterable[float], digits: int = 2) -> str:
    """Mean and standard deviation."""
    known = list(values)
    if not known:
        return ""
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.{digits}f}{spread}"


def show_difference(values: dict[int, float], others: dict[int, float]) -> str:
    """Mean difference of the same seeds, with its 95% interval by Student's t."""
    gaps = [values[seed] - others[seed] for seed in values.keys() & others.keys()]
    if len(gaps) < 2 or not any(gaps):
        return ""
    mean, low_high = paired_interval(gaps)
    return f"{mean:+.2f} ({low_high[0]:+.2f} to {low_high[1]:+.2f})"


def paired_interval(gaps: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean of paired differences and its 95% interval.

    Args:
      gaps: at least 2.
    """
    mean = statistics.mean(gaps)
    quantile = float(stats.t.ppf(0.975, len(gaps) - 1))
    half = quantile * statistics.stdev(gaps) / math.sqrt(len(gaps))
    return mean, (mean - half, mean + half)
