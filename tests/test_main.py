"""The command line, as real processes but for how a run ends that failed."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from maskaq_jax import main, run
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


def test_help_ends_quietly_where_nobody_reads_on(tmp_path):
    command = f"{sys.executable} -m maskaq_jax.main --help | head -1"
    result = subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=False,
    )
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


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FloatingPointError("diverged at step 3:\n  lower it"), "diverged at step 3: lower it"),
        (OSError(errno.EIO, "Input/output error", "a"), "[Errno 5] Input/output error: 'a'"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nAt"),
            "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes: lower "
            "config.samples.batch_size, config.finetuning.batch_size or "
            "config.evaluation.batch_size, with another --workdir",
        ),
    ],
)
def test_a_run_that_fails_ends_with_one_line(error, line, monkeypatch, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr(run, "run", fail)
    with pytest.raises(SystemExit) as ended:
        main._run(SimpleNamespace(workdir=Path("run")), lambda: False)
    assert ended.value.code == 1
    assert capsys.readouterr() == ("run directory: run\n", f"error: {line}\n")


def test_a_run_that_is_stopped_before_it_starts_writes_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(run, "run", pytest.fail)
    with pytest.raises(SystemExit) as ended:
        main._run(SimpleNamespace(workdir=tmp_path / "run"), lambda: True)
    assert ended.value.code == 75
    assert capsys.readouterr() == ("", "stopped before anything was written\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "workdir", [["--workdir=runs/my run"], ["--workdir", "runs/my run"], ["-workdir=x"], []]
)
def test_the_command_that_is_written_down_has_no_directory(workdir, monkeypatch):
    arguments = [SMOKE, *workdir, "--config.model.weights=my weights.pth"]
    monkeypatch.setattr(sys, "argv", ["maskaq", *arguments])
    expected = f"python -m maskaq_jax.main {SMOKE} '--config.model.weights=my weights.pth'"
    assert main._command() == expected
