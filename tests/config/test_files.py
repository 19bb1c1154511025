"""Config files are found wherever one stands, and a file that is there comes first."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from maskaq_jax.config import files

ROOT = Path(__file__).parents[2]


def test_the_package_s_own_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = files.find("configs/deit_t.py")
    assert files.load(found).get_config("w=3").quantization.weight_bits == 3
    assert files.find("smoke.py").name == "smoke.py"


def test_a_file_that_is_there_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    own = tmp_path / "configs" / "deit_t.py"
    own.write_text("from configs import common\nget_config = common.imagenet_config\n")
    assert files.find("configs/deit_t.py").resolve() == own


def test_a_misspelt_name_is_told():
    with pytest.raises(FileNotFoundError, match=r"no file configs/deit_x\.py"):
        files.find("configs/deit_x.py")


def test_every_config_has_a_line():
    told = dict(files.describe_own())
    assert told["configs/vit_fashion.py"].startswith("Quantizes the embedded ViT")
    assert "configs/common.py" not in told
    assert all(told.values())


def _call(*arguments, tools=None, cwd=None):
    """A module of Python, with what is installed in a folder of tools."""
    environment = os.environ | ({"PYTHONPATH": str(tools)} if tools else {})
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        **{"check": True, "capture_output": True, "text": True, "cwd": cwd, "env": environment},
    )


@pytest.mark.slow
def test_the_sdist_s_wheel_has_them_and_runs_in_an_empty_directory(tmp_path):
    """Built from the sdist, which so has all that a wheel needs."""
    tools = tmp_path / "tools"
    _call("pip", "install", "--quiet", f"--target={tools}", "hatchling")
    _call("hatchling", "build", "-t", "sdist", "-d", str(tmp_path), tools=tools, cwd=ROOT)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as content:
        inside = {name.partition("/")[2] for name in content.getnames()}
    assert {"README.md", "LICENSE", "configs/deit_t.py", "maskaq_jax/py.typed"} <= inside
    options = ["--quiet", "--no-deps", "--no-build-isolation", f"--wheel-dir={tmp_path}"]
    _call("pip", "wheel", *options, str(sdist), tools=tools)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "maskaq_jax/configs/deit_t.py" in names
    assert not any(name.startswith(("configs/", "tests/", "benchmarks/")) for name in names)
    target = tmp_path / "installed"
    _call("pip", "install", "--quiet", "--no-deps", f"--target={target}", str(wheel))
    (tmp_path / "empty").mkdir()
    told = subprocess.run(
        [sys.executable, "-c", _LIST, str(target)],
        **{"check": True, "capture_output": True, "text": True, "cwd": tmp_path / "empty"},
    )
    assert "configs/deit_t.py" in told.stdout
    assert str(target) in told.stdout


_LIST = """
import sys
sys.path.insert(0, sys.argv[1])
import maskaq_jax
from maskaq_jax.config import files
print(maskaq_jax.__file__, dict(files.describe_own()), files.find("configs/deit_t.py"))
files.load(files.find("configs/deit_t.py")).get_config("w=4,a=8")
"""
