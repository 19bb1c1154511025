"""The command line, as real processes and as the functions behind it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maskaq_jax import main

ROOT = Path(__file__).parents[1]
SMOKE = f"--config={ROOT}/configs/smoke.py"


def _run(directory, *arguments, python_path=""):
    return subprocess.run(
        [sys.executable, "-m", "maskaq_jax.main", *arguments],
        capture_output=True,
        text=True,
        cwd=directory,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{python_path}"},
        check=False,
    )


def _assert_refused(directory, result, message):
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not any(directory.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([SMOKE + ":method=noize"], "unknown config.method 'noize': did you mean 'noise'?"),
        ([SMOKE, "--config.model.arguments.img_size=30"], "img_size must be a multiple of"),
        ([SMOKE, "--config.model.weights=gone.safetensors"], "no file gone.safetensors"),
    ],
)
def test_bad_input_ends_before_any_work(tmp_path, arguments, message):
    _assert_refused(tmp_path, _run(tmp_path, *arguments), message)


def test_a_directory_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    result = _run(ROOT, SMOKE, f"--workdir={tmp_path}")
    assert result.returncode == 2
    assert "name another --workdir" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# ml_collections loads config files by a method that Python calls outdated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=gone.py"], "--config: no file gone.py"),
        (["--config=configs/vit_fashio.py"], "did you mean configs/vit_fashion.py?"),
        ([SMOKE + ":quant=3"], "unknown config argument 'quant'"),
        ([SMOKE + ":w=three"], "config argument w must be an integer, got 'three'"),
        ([SMOKE + ":preset=good"], "unknown config argument preset 'good'"),
        ([SMOKE, "--config.samples.num_sample=3"], "did you mean 'num_samples'?"),
        ([SMOKE, "--confg=3"], "Unknown command line flag 'confg'"),
    ],
)
def test_flags_that_cannot_be_read_are_told_in_one_line(arguments, message, capsys, monkeypatch):
    from absl import flags

    monkeypatch.setattr(main.flags, "FLAGS", flags.FlagValues())
    main.config_flags.DEFINE_config_file("config", flag_values=main.flags.FLAGS)
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        main._parse_flags(["main", *arguments])
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.startswith("error: ")
    assert line.count("\n") == 1


def test_the_config_must_be_named(tmp_path):
    _assert_refused(tmp_path, _run(tmp_path), "--config is missing")


@pytest.fixture
def traps(tmp_path_factory):
    """A directory of packages that end the program that imports them."""
    directory = tmp_path_factory.mktemp("traps")
    for name in ("torch", "tensorflow"):
        (directory / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    return directory


@pytest.mark.slow
def test_smoke_runs_every_phase_without_torch_or_tensorflow(tmp_path, traps):
    result = _run(tmp_path, SMOKE, "--config.evaluation.batch_size=1000", python_path=traps)
    assert result.returncode == 0, result.stderr
    (workdir,) = (tmp_path / "runs").iterdir()
    assert f"run directory: {Path('runs') / workdir.name}" in result.stdout
    assert "fine-tuned with no data" in result.stderr
    assert (workdir / "results.json").is_file()
    again = _run(tmp_path, SMOKE + ":seed=1", f"--workdir={workdir}")
    assert again.returncode == 2
    assert "config.seed (0 there, 1 here)" in again.stderr
