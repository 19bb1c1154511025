"""Runs a module as a program, and writes how long JAX traced and compiled in it.

    python benchmarks/recorded.py FILE MODULE [its flags]

A file that needs nothing of the project, so that it measures any checkout of it.
"""

import json
import runpy
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What JAX tells of how long, and our words for it.
_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling",
}


def record(path: Path, module: str, flags: Sequence[str]) -> None:
    """Runs a module as a program, and writes what JAX tells of its compiling, and its own start.

    The start is what comes before the first program is traced: imports and flags.
    """
    started = time.perf_counter()
    parts = {"start": 0.0} | dict.fromkeys(_EVENTS.values(), 0.0)
    lock = threading.Lock()

    def listen(event: str, duration_secs: float, **details: Any) -> None:
        del details
        if event in _EVENTS:
            with lock:
                parts[_EVENTS[event]] += duration_secs
                parts["start"] = parts["start"] or time.perf_counter() - started

    import jax.monitoring

    jax.monitoring.register_event_duration_secs_listener(listen)
    sys.argv = [module, *flags]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        path.write_text(json.dumps(parts), encoding="utf-8")


if __name__ == "__main__":
    # The folder of this file comes first, and has modules of the names of Python's own.
    del sys.path[0]
    record(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
