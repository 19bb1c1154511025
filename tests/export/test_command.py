"""`python -m maskaq_jax.export`: what it writes and says, and what it refuses."""

import json
import re
import shutil

import onnxruntime
import pytest

from maskaq_jax.export import __main__ as command
from maskaq_jax.export import files
from tests import tiny
from tests.mistakes import EXPORT_CASES
from tests.tiny import NUM_EVALUATED

pytestmark = tiny.ignore_orbax_warnings


def test_a_run_becomes_an_onnx_file_that_says_how_it_agrees(finished, tmp_path, capsys):
    out = tmp_path / "model.onnx"
    command.main([f"--workdir={finished}", f"--out={out}", "--check"])
    said = capsys.readouterr().out
    assert f"wrote {out}: {out.stat().st_size / 1e6:.2f} MB" in said
    assert f"comparing it with the low-bit model on {NUM_EVALUATED} images\n" in said
    (same,) = re.findall(
        rf"same class as the low-bit model on {NUM_EVALUATED} images: (\S+)%", said
    )
    assert float(same) >= 95
    results = json.loads((finished / "results.json").read_text())
    assert f"its own {results['quantized_top1']:.2f}%" in said
    assert re.search(r"blocks_1/attn/logits: product within \S+ of its largest value", said)
    assert re.search(r"blocks_0/mlp/fc2/input: .* codes ", said)
    assert re.search(r"outputs within 0\.1% of the largest on \S+%; top-1 ", said)
    (itself,) = re.findall(r"same class as itself, its input scaled by \S+ \S+ \S+: (\S+)%", said)
    assert 95 <= float(itself) <= 100
    session = onnxruntime.InferenceSession(out)
    described = json.loads(session.get_modelmeta().custom_metadata_map["maskaq_jax"])
    assert described["bits"] == {"weights": 4, "activations": 8}


def test_a_run_becomes_a_file_of_packed_codes(finished, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    command.main([f"--workdir={finished}", f"--out={out}"])
    assert f"on {NUM_EVALUATED} images: 100.00%" in capsys.readouterr().out


def test_a_run_whose_images_are_gone_is_exported_all_the_same(finished, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    settings = json.loads((workdir / "config.json").read_text())
    settings["evaluation"] |= {"dataset": "folder", "path": str(tmp_path / "gone"), "split": ""}
    (workdir / "config.json").write_text(json.dumps(settings))
    command.main([f"--workdir={workdir}", "--input=pixels"])
    said = capsys.readouterr().out
    assert "evaluation images can't be read: " in said
    assert "agreement with the low-bit model is not measured" in said
    (taken,) = onnxruntime.InferenceSession(workdir / "model.onnx").get_inputs()
    assert (taken.name, taken.type) == ("pixels", "tensor(uint8)")


def test_a_run_in_half_precision_is_told_that_its_file_is_not(finished, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    settings = json.loads((workdir / "config.json").read_text())
    settings["model"]["arguments"]["dtype"] = "bfloat16"
    settings["evaluation"] |= {"dataset": "", "split": ""}
    (workdir / "config.json").write_text(json.dumps(settings))
    command.main([f"--workdir={workdir}"])
    assert "the run computes in bfloat16 and the file in float32" in capsys.readouterr().out


@pytest.mark.parametrize("name", EXPORT_CASES)
def test_a_mistake_is_answered_in_one_line(name, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").symlink_to(finished)
    (tmp_path / "here.onnx").write_bytes(b"mine")
    (tmp_path / "unfinished").mkdir()
    before = sorted(path.name for path in tmp_path.rglob("*"))
    arguments, answer = EXPORT_CASES[name]
    _refused(arguments)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert answer in said.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert (tmp_path / "here.onnx").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("package", "file_format", "told"),
    [
        ("onnx", "onnx", "takes the package onnx, which"),
        ("onnxruntime", "onnx", "takes the package onnxruntime, which"),
        ("litert_converter", "litert", "takes the package litert-converter, which"),
        ("ai_edge_litert", "litert", "takes the package ai-edge-litert, which"),
    ],
)
def test_a_missing_extra_is_answered_in_one_line(
    package, file_format, told, finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(files.util, "find_spec", lambda name: None if name == package else name)
    _refused([f"--workdir={finished}", f"--format={file_format}", f"--out={tmp_path / 'model'}"])
    said = capsys.readouterr().err
    assert told in said
    assert f"pip install '.[{file_format}]'" in said
    assert not list(tmp_path.iterdir())


def test_a_folder_of_somebody_else_s_is_answered_in_one_line(
    finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    _refused([f"--workdir={finished}", f"--out={tmp_path / 'model.onnx'}"])
    assert f"can't be written: {tmp_path} is not ours to write to" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rules_that_a_format_can_t_carry_are_answered_in_one_line(
    finished, tmp_path, monkeypatch, capsys
):
    """Before anything is converted, which the packages for it are asked for."""
    monkeypatch.setattr(files.util, "find_spec", lambda name: name)
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    settings = json.loads((workdir / "config.json").read_text())
    settings["quantization"]["rules"] = "head=4x4"
    (workdir / "config.json").write_text(json.dumps(settings))
    before = sorted(path.name for path in workdir.iterdir())
    _refused([f"--workdir={workdir}", "--format=litert"])
    told = "--format=litert takes activations of 8 bits, or of 32 for none: head/input has 4"
    assert told in capsys.readouterr().err
    assert sorted(path.name for path in workdir.iterdir()) == before


def _refused(arguments):
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    assert end.value.code == 2


def test_a_disk_that_fails_leaves_nothing_behind(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space")))
    _refused([f"--workdir={finished}", f"--out={tmp_path / 'model.onnx'}"])
    assert "No space" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
