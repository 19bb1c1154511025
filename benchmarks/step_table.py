"""The table of steps that `benchmarks.steps` prints."""

from typing import Any

HEADER = (
    "| model | step | ours | PyTorch | tuned | ratios | peak memory: ours, PyTorch's, tuned "
    "| compiled, from the cache; traced | share of the matrix rate |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def format_row(record: dict[str, Any]) -> str:
    """A record as a row of the table."""

    def show(name: str, unit: str, factor: float = 1.0) -> str:
        value = record[name]
        return "" if value is None else f"{factor * value:.3g}{unit}"

    def show_seconds(kind: str, name: str) -> str:
        is_lacking = kind in record["implementations"] and record[name] is None
        return "out of memory" if is_lacking else show(name, " s")

    seconds = show_seconds("ours", "seconds")
    if record["seconds_spread"] is not None:
        seconds += f" ± {show('seconds_spread', '')}"
    cells = (
        f"{record['model']}, {record['dtype']}, batch {record['batch']}",
        record["phase"],
        seconds,
        show_seconds("torch", "torch_seconds"),
        show_seconds("torch_tuned", "torch_tuned_seconds"),
        _join(show("ratio", ""), show("ratio_tuned", "")),
        _join(*(show(f"{kind}peak_bytes", " GB", 1e-9) for kind in ("", "torch_", "torch_tuned_"))),
        f"{show('compile_seconds', ' s')}, {show('cached_compile_seconds', ' s')}; "
        + show("trace_seconds", " s"),
        show("utilization", "%", 100),
    )
    return f"| {' | '.join(cells)} |"


def _join(*texts: str) -> str:
    return ", ".join(filter(None, texts))
