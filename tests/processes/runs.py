"""Starts runs as real processes, and reads what they leave."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

import maskaq_jax
from maskaq_jax.storage import checked_arrays
from maskaq_jax.synthesis import store
from tests import emitters

ROOT = Path(__file__).parents[2]

# The embedded teacher; 8 bits and small steps, so that rounding that differs between device counts
# does not grow into another model.
CONFIG = """
from configs import smoke
from maskaq_jax.data import embedded

load_all = embedded.load_embedded


def load_few(split, num_channels):
    images, labels = load_all(split, num_channels)
    return images[:1000], labels[:1000]


embedded.load_embedded = load_few


def get_config(argument=None):
    config = smoke.get_config(argument)
    config.quantization.weight_bits = config.quantization.activation_bits = 8
    config.samples.num_samples, config.samples.batch_size = 12, 6
    config.samples.calibration_size = 8
    config.synthesis.num_steps = 25
    config.finetuning.batch_size = 6
    config.finetuning.epochs = 4
    config.samples.refresh_every = 2
    config.finetuning.learning_rate = 1e-5
    config.finetuning.quantizer_learning_rate = 1e-4
    config.evaluation.split, config.evaluation.batch_size = "validation", 250
    return config
"""
# Goes on from there, to a model so small that a run takes few seconds more than its start, and to a
# state that is saved whenever it can be.
SMALLER = """
get_full_config = get_config


def get_config(argument=None):
    config = get_full_config(argument)
    config.model.arguments = {arguments}
    config.model.weights = "{weights}"
    config.checkpoint_seconds = 0.0
    return config
"""

# Ends the process by SIGKILL, some seconds after the n-th sign of life of a phase and at the latest
# at the next sign of any: on a fast machine, the run comes no further than on a slow one.
KILLER = """
import contextlib, os, signal, sys, threading
from maskaq_jax import calibration, main
from maskaq_jax.runs.progress import Progress

phase, count, delay = sys.argv.pop(1), int(sys.argv.pop(1)), float(sys.argv.pop(1))
seen = 0

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def notice(name):
    global seen
    if seen == count:
        kill()
    seen += name == phase
    if seen == count:
        threading.Timer(delay, kill).start()

show = Progress.phase
@contextlib.contextmanager
def watched(self, name):
    with show(self, name) as advance:
        def told(units):
            notice(name)
            advance(units)
        yield told
Progress.phase = watched

keep = Progress.keep
def kept(self, name, units):
    notice(name)
    keep(self, name, units)
Progress.keep = kept

calibrate = calibration.calibrate
def calibrated(*arguments):
    notice("calibration")
    return calibrate(*arguments)
calibration.calibrate = calibrated
main.start()
"""


def start(directory, workdir, *flags, script=None, devices=1, **options):
    program = ["-c", *script] if script else ["-m", "maskaq_jax.main"]
    return subprocess.Popen(
        [
            *(sys.executable, *program, f"--config={directory / 'config.py'}"),
            *(f"--workdir={workdir}", f"--compilation_cache={directory / 'compiled'}", *flags),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ
        | {
            "PYTHONUNBUFFERED": "1",
            # Most of a small run's time is compilation.
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {emitters.FLAG}",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        },
        **options,
    )


def finish(process):
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def results(workdir):
    results = json.loads((workdir / "results.json").read_text())
    return {name: value for name, value in results.items() if name not in ("seconds", "device")}


def images(workdir, refresh):
    shards = store.list_shards(store.refresh_folder(workdir / "samples", refresh))
    arrays = [checked_arrays.read_arrays(shard.path) for shard in shards]
    return tuple(np.concatenate([array[name] for array in arrays]) for name in ("images", "labels"))


def leaves(workdir):
    return jax.tree.leaves(maskaq_jax.load(workdir)[1])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_all(directory, workdir, processes, *flags, devices=1, script=None):
    """The processes of one run; `script` has what each runs instead of the program."""
    group = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={processes}"]
    return [
        start(
            *(directory, workdir, *flags),
            *([*group, f"--process_id={number}"] if processes > 1 else []),
            script=script,
            devices=devices,
        )
        for number in range(processes)
    ]
