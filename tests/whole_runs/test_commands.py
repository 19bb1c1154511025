"""The commands on a finished run, as processes: where there is no device, with 64 bits, terminals
that lack letters, and readers that leave."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

pytestmark = tiny.ignore_orbax_warnings

ROOT = Path(__file__).parents[2]
LOAD = "import maskaq_jax, sys; maskaq_jax.load(sys.argv[1])"


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy, whose evaluation images are few enough to be read quickly: none."""
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    settings = json.loads((workdir / "config.json").read_text())
    settings["evaluation"] |= {"dataset": "", "split": ""}
    (workdir / "config.json").write_text(json.dumps(settings))
    return workdir


def _run(command, workdir, cwd=ROOT, more="", **environment):
    line = f'"{sys.executable}" -m maskaq_jax.{command} --workdir="{workdir}" {more}'
    return subprocess.run(
        line,
        shell=True,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        check=False,
    )


def _load(workdir, **environment):
    return subprocess.run(
        [sys.executable, "-c", LOAD, workdir],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "platform"), [("export", "cuda"), ("report", "nonsense"), ("sensitivity", "rocm")]
)
def test_a_device_that_is_not_there_is_told_in_one_line(workdir, command, platform):
    result = _run(command, workdir, JAX_PLATFORMS=platform)
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: JAX finds no device: ")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_program_is_told_the_same_by_an_error(workdir):
    result = _load(workdir, JAX_PLATFORMS="cuda")
    assert result.stderr.splitlines()[-1] == (
        "OSError: JAX finds no device: nothing here serves JAX_PLATFORMS=cuda"
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["export", "report", "sensitivity"])
def test_64_bits_are_switched_off_for_a_command(workdir, command):
    more = "--format=safetensors" if command == "export" else ""
    result = _run(command, workdir, more=more, JAX_ENABLE_X64="1")
    assert result.returncode == 0, result.stderr
    assert "error" not in result.stderr


def test_a_program_of_64_bits_is_told_what_to_do(workdir):
    result = _load(workdir, JAX_ENABLE_X64="1")
    assert "JAX computes in 64 bits (JAX_ENABLE_X64), which runs don't: unset" in result.stderr
    assert "another version" not in result.stderr


def test_names_that_a_terminal_cannot_print_are_escaped(workdir):
    place = workdir.rename(workdir.parent / "é")
    result = _run("report", place, PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert result.stdout.isascii()
    assert (place / "report.html").is_file()
    gone = _run("export", f"{place}日本", PYTHONIOENCODING="ascii")
    assert gone.returncode == 2
    assert gone.stderr.startswith("error: no finished run in ")
    assert gone.stderr.isascii()


@pytest.mark.parametrize(
    ("command", "more", "wrote", "lines"),
    [
        ("export", "--format=safetensors", "model.safetensors", 0),
        ("export", "--format=safetensors", "model.safetensors", 1),
        ("report", "", "report.html", 0),
        ("main", "--list_configs", "", 0),
        ("main", "--list_configs", "", 1),
    ],
)
def test_who_stops_to_read_ends_a_command_quietly(workdir, command, more, wrote, lines):
    result = _run(command, workdir, more=f"{more} | head -{lines}")
    assert result.stderr == ""
    assert result.stdout.count("\n") == lines
    assert (workdir / wrote).exists()


# Interrupts itself while it writes.
INTERRUPTED = """
import os, signal
from maskaq_jax.export import __main__ as export
from maskaq_jax.runs import command_line

os.fsync = lambda _: [os.kill(os.getpid(), signal.SIGINT) for _ in range({count})]
command_line.end_at_ctrl_c()
command_line.start(lambda: export.main(["--workdir=" + {workdir!r}, "--format=safetensors"]))
"""


@pytest.mark.parametrize("count", [1, 2])
def test_ctrl_c_ends_a_command_without_a_traceback(workdir, count):
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(count=count, workdir=str(workdir))],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert result.returncode == 128 + signal.SIGINT
    assert "Traceback" not in result.stderr
    assert not (workdir / "model.safetensors").exists()
    if count == 1:
        assert result.stderr.strip() == "stopped: nothing half written is left"
        assert not list(workdir.glob("model*"))


@pytest.mark.parametrize("command", ["export", "report"])
def test_a_full_disk_is_told_in_one_line(workdir, command):
    (workdir / "report.html").unlink(missing_ok=True)
    more = "--format=safetensors" if command == "export" else ""
    limited = f"ulimit -f 8; trap '' XFSZ; exec {sys.executable} -m maskaq_jax.{command}"
    result = subprocess.run(
        ["bash", "-c", f"{limited} --workdir={workdir} {more}"],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "JAX_COMPILATION_CACHE_DIR": "",
        },
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
    assert not list(workdir.glob("model*"))
    assert not list(workdir.glob("report*"))
