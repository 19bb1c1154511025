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
            f"--compilation_cache={directory.parent / 'compiled'}",
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
