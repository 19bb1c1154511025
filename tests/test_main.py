"""The command line, as real processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from maskaq_jax.storage import paths
from tests import emitters

ROOT = Path(__file__).parents[1]
SMOKE = f"--config={ROOT}/configs/smoke.py"


def _run(directory, *arguments, root=ROOT, python_path=""):
    return subprocess.run(
        [
            *(sys.executable, "-m", "maskaq_jax.main", *arguments),
            f"--compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
        ],
        capture_output=True,
        text=True,
        cwd=directory,
        env=os.environ
        | {
            "PYTHONPATH": f"{root}{os.pathsep}{python_path}",
            # The devices there are; compilation takes most of the time.
            "XLA_FLAGS": emitters.FLAG,
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        },
        check=False,
    )


def test_bad_input_ends_before_any_work(tmp_path):
    result = _run(tmp_path, SMOKE + ":method=noize")
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: unknown config.method 'noize': did you mean 'noise'?")
    assert result.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_a_config_finds_its_neighbours_wherever_one_starts(tmp_path):
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "maskaq_jax").symlink_to(ROOT / "maskaq_jax")
    result = _run(tmp_path, SMOKE + ":method=noize", root=tmp_path / "installed")
    assert result.stderr.startswith("error: unknown config.method 'noize'"), result.stderr


def _write_package(directory):
    (directory / "configs").mkdir()
    (directory / "configs" / "__init__.py").write_text("raise SystemExit('a stranger')")


def _write_module(directory):
    (directory / "configs.py").write_text("raise SystemExit('a stranger')")


def _write_folder(directory):
    (directory / "configs").mkdir()
    (directory / "configs" / "common.py").write_text("raise SystemExit('a stranger')")


@pytest.mark.parametrize("write", [_write_package, _write_module, _write_folder])
def test_what_is_called_configs_where_one_starts_is_not_imported(tmp_path, write):
    write(tmp_path)
    result = _run(tmp_path, f"--config={ROOT}/configs/deit_t.py:method=noize")
    assert result.stderr.startswith("error: unknown config.method 'noize'"), result.stderr


def test_a_config_of_ones_own_builds_on_ours_wherever_it_lies(tmp_path):
    _write_module(tmp_path)
    (tmp_path / "flowers.py").write_text(
        "from configs import common\n\n\ndef get_config(argument=None):\n"
        "    return common.imagenet_config(argument, model='swin_tiny', weights='flowers.pth')\n"
    )
    result = _run(tmp_path, "--config=flowers.py:method=mimiq")
    assert result.stderr.startswith("error: unknown config.model.name 'swin_tiny'"), result.stderr


def _run_by_shell(arguments, cwd):
    return subprocess.run(
        f"{sys.executable} -m maskaq_jax.main {arguments}",
        shell=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=cwd,
        check=False,
    )


def test_help_ends_quietly_where_nobody_reads_on(tmp_path):
    result = _run_by_shell("--help | head -1", tmp_path)
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


def _run_in(environment, *arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "maskaq_jax.main", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )


@pytest.mark.parametrize("platform", ["cuda", "rocm", "gpu", "nonsense"])
def test_a_device_that_is_not_there_is_told_in_one_line(tmp_path, platform):
    result = _run_in({"JAX_PLATFORMS": platform}, SMOKE, "--workdir=run", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: JAX finds no device: ")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["é", "日本", "a\udcff"])
def test_names_that_a_terminal_cannot_print_are_escaped(tmp_path, name):
    (tmp_path / name).write_text("a file")
    result = _run_in({"PYTHONIOENCODING": "ascii"}, SMOKE, f"--workdir={name}", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: workdir ")
    assert result.stderr.isascii()


@pytest.mark.parametrize(
    ("redirected", "status"),
    [
        *[("--list_configs >&-", 0), ("--list_configs 2>&-", 0), ("--list_configs >/dev/full", 1)],
        *[("--config=gone.py >&-", 2), ("--config=gone.py 2>&-", 2)],
        ("--config=gone.py 2>/dev/full", 2),
    ],
)
def test_streams_that_take_nothing_change_no_answer(tmp_path, redirected, status):
    result = _run_by_shell(redirected, tmp_path)
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    if ">/dev/full" in redirected and "2>" not in redirected:
        assert "No space left on device" in result.stderr


def test_a_home_that_takes_no_programs_stops_no_run(tmp_path):
    (tmp_path / "home").write_text("")
    result = _run_in({"HOME": str(tmp_path / "home")}, SMOKE + ":method=noize", cwd=tmp_path)
    told, error = result.stderr.splitlines()
    assert told.startswith("compiled programs are not kept: ")
    assert error.startswith("error: unknown config.method 'noize'")


def test_64_bits_are_switched_off_for_a_run(monkeypatch):
    program = "import jax; from maskaq_jax.devices import memory; memory.compute_in_32_bits();"
    program += "import jax.numpy as jnp; print(jnp.asarray(1.5).dtype)"
    environment = os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout == "float32\n"


def test_ctrl_c_at_any_time_ends_with_one_line(tmp_path):
    program = (
        "import os, signal; from maskaq_jax import main\n"
        "main.app.run = lambda *_, **__: os.kill(os.getpid(), signal.SIGINT)\nmain.start()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 130
    assert result.stderr.strip().startswith("stopped at once: what was saved by then stays")
    assert result.stderr.strip().count("\n") == 0


@pytest.fixture
def traps(tmp_path_factory):
    """A directory of packages that end the program that imports them."""
    directory = tmp_path_factory.mktemp("traps")
    for name in ("torch", "tensorflow"):
        (directory / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    return directory


@pytest.mark.slow
def test_smoke_runs_every_phase_without_torch_or_tensorflow(tmp_path, traps):
    result = _run(
        *(tmp_path, SMOKE + ":split=validation", "--config.evaluation.batch_size=1000"),
        python_path=traps,
    )
    assert result.returncode == 0, result.stderr
    (workdir,) = (tmp_path / "runs").iterdir()
    assert f"run directory: {Path('runs') / workdir.name}" in result.stdout
    assert "fine-tuned with no data" in result.stderr
    assert (workdir / "results.json").is_file()
    again = _run(tmp_path, SMOKE + ":split=validation,seed=1", f"--workdir={workdir}")
    assert again.returncode == 2
    assert "config.seed (0 there, 1 here)" in again.stderr


# The program up to its run, for which something else stands in.
STAND_IN = """
import errno, hashlib, os, signal
import jax
from maskaq_jax import main, run
from maskaq_jax.runs import inputs

def stand_in(*_):
    {}

run.run = stand_in
"""


def _run_program(program, *arguments, cwd):
    return subprocess.run(
        [sys.executable, "-c", program, SMOKE, "--compilation_cache=", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=cwd,
        check=False,
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            "FloatingPointError('diverged at step 3:\\n  lower it')",
            "diverged at step 3: lower it",
        ),
        (
            "OSError(errno.EIO, 'Input/output error', 'a')",
            "[Errno 5] Input/output error: 'a'",
        ),
        (
            "jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory: 9 bytes.\\nAt')",
            "RESOURCE_EXHAUSTED: Out of memory: 9 bytes: lower config.samples.batch_size, "
            "config.finetuning.batch_size or config.evaluation.batch_size, with another --workdir",
        ),
    ],
)
def test_a_run_that_fails_ends_with_one_line(error, line, tmp_path):
    program = STAND_IN.format(f"raise {error}") + "main.start()"
    result = _run_program(program, "--workdir=run", cwd=tmp_path)
    assert result.returncode == 1
    assert (result.stdout, result.stderr) == ("run directory: run\n", f"error: {line}\n")


STOPPED_WHILE_IT_PREPARES = (
    STAND_IN.format("raise AssertionError('it runs')")
    + """
prepare = inputs.prepare

def prepare_and_stop(*arguments):
    prepared = prepare(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)
    return prepared

inputs.prepare = prepare_and_stop
main.start()
"""
)


def test_a_run_that_is_stopped_before_it_starts_writes_nothing(tmp_path):
    result = _run_program(STOPPED_WHILE_IT_PREPARES, "--workdir=run", cwd=tmp_path)
    assert result.returncode == 75, result.stderr
    assert result.stdout == ""
    assert result.stderr.endswith("\nstopped before anything was written\n")
    assert not any(tmp_path.iterdir())


# Its main thread computes for minutes, and lets no handler of Python's run meanwhile.
BUSY = STAND_IN.format('hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)') + "main.start()"


def test_ctrl_c_is_answered_and_a_second_one_obeyed_while_the_program_computes(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, SMOKE, "--compilation_cache=", "--workdir=run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            assert process.stdout.readline() == "run directory: run\n"
            process.send_signal(signal.SIGINT)
            answer = process.stderr.readline()
            assert answer.startswith("SIGINT: saving, after the step at hand; Ctrl-C again")
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert told.strip().startswith("stopped at once: what was saved by then stays")
    assert told.strip().count("\n") == 0


# Started anew for each list of arguments, in a process that is forked after the imports.
COMMANDS = """
import json, os, sys
import jax
from maskaq_jax import main, run

run.run = lambda inputs, *_: print(inputs.command, flush=True)
for arguments in json.load(sys.stdin):
    if os.fork() == 0:
        sys.argv = ["maskaq", *arguments]
        main.start()
    os.wait()
"""


def test_the_command_that_is_written_down_has_no_directory(tmp_path):
    shutil.copy(paths.weights_path("embedded:vit_fashion"), tmp_path / "my weights.safetensors")
    workdirs = [["--workdir=runs/my run"], ["--workdir", "runs/my run"], ["-workdir=x"], []]
    others = ["--compilation_cache=", "--config.model.weights=my weights.safetensors"]
    result = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input=json.dumps([[SMOKE, *workdir, *others] for workdir in workdirs]),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=True,
    )
    expected = (
        f"python -m maskaq_jax.main {SMOKE} --compilation_cache= "
        "'--config.model.weights=my weights.safetensors'"
    )
    told = [line for line in result.stdout.splitlines() if line.startswith("python")]
    assert told == [expected] * len(workdirs), result.stderr
