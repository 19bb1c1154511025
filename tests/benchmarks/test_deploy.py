"""The bench of integer files: what it makes of what it measured, and its chart."""

from pathlib import Path

import pytest
from PIL import Image

from benchmarks import deploy, deploy_chart

FILES = [
    deploy.File(Path("32x32.onnx"), (32, 32), 4000, 2.0, 0.0, 1e-6),
    deploy.File(Path("4x8.onnx"), (4, 8), 600, 3.0, 2e-3, 1e-3),
]
TAKEN = {
    ("onnxruntime", (32, 32)): deploy.Taken(0.030, 10**8),
    ("onnxruntime", (4, 8)): deploy.Taken(0.015, 2 * 10**8),
    ("jax", (32, 32)): deploy.Taken(0.045, 4 * 10**8),
}


def test_times_are_compared_with_float32_of_the_same_runtime_and_of_frameworks():
    whole, low, framework = deploy.to_records("deit", FILES, TAKEN, 1)
    assert [whole["ratio"], low["ratio"], framework["ratio"]] == [1, 2, 1]
    assert low["jax_ratio"] == pytest.approx(3)
    assert low["torch_ratio"] is None
    assert low["size_ratio"] == pytest.approx(600 / 4000 * 8)
    assert low["peak_bytes"] == 2 * 10**8


def test_every_record_has_a_line_of_the_table():
    lines = [deploy.to_line(row) for row in deploy.to_records("deit", FILES, TAKEN, 1)]
    assert {line.count("|") for line in lines} == {deploy.COLUMNS.count("|")}
    assert "W4A8" in lines[1]
    assert "| 2.00 |  | 3.00 |" in lines[1]


def test_records_make_a_chart(tmp_path):
    records = [
        row for model in ("deit", "swin") for row in deploy.to_records(model, FILES, TAKEN, 1)
    ]
    deploy_chart.draw(tmp_path / "deploy.png", records)
    with Image.open(tmp_path / "deploy.png") as picture:
        assert picture.size == (800, 600)
