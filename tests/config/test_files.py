"""Config files are found wherever one stands, and a file that is there comes first."""

import subprocess
import sys
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


@pytest.mark.slow
def test_the_wheel_has_them_and_runs_in_an_empty_directory(tmp_path):
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        f"--wheel-dir={tmp_path}",
    ]
    subprocess.run([*build, str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "maskaq_jax/configs/deit_t.py" in names
    assert not any(name.startswith(("configs/", "tests/", "benchmarks/")) for name in names)
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*install, f"--target={target}", str(wheel)], check=True)
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
