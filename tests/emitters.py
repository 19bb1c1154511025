"""XLA's earlier emitters of fused operations: programs compile in two thirds of the time, and with
few optimisations in half of it.

Runs as a user's, `test_first_command.py`, take those that XLA chooses. Later versions have no such
choice, and end a process that asks for it.
"""

import os
import subprocess
import sys

_EARLIER = "--xla_cpu_use_fusion_emitters=false"


def _find_flag():
    if _EARLIER in os.environ.get("XLA_FLAGS", ""):  # a worker, whose parent has tried
        return _EARLIER
    tried = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": _EARLIER},
        capture_output=True,
        check=False,
    )
    return "" if tried.returncode else _EARLIER


# For XLA_FLAGS; empty where there is no choice.
FLAG = _find_flag()
