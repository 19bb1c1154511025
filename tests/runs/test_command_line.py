"""How a command ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Interrupts itself in a finalizer, which no exception leaves.
IN_A_FINALIZER = """
import os, signal, time
from maskaq_jax.runs import command_line

class Object:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def work():
    Object()
    time.sleep(60)

command_line.end_at_ctrl_c()
command_line.start(work)
"""


def test_ctrl_c_in_a_finalizer_ends_a_command_too():
    result = subprocess.run(
        [sys.executable, "-c", IN_A_FINALIZER],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=50,
        check=False,
    )
    assert result.returncode == 128 + signal.SIGINT
    assert result.stderr.strip() == "stopped: nothing half written is left"
