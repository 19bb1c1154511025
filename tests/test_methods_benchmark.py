"""The bench that compares methods: what it runs, what it skips, and its statistics."""

import csv
import json

import numpy as np
import pytest
from scipy import stats

from benchmarks import methods, runs
from configs import vit_fashion
from maskaq_jax import config


def _row(method, seed, top1, preset="best", seconds=10.0):
    row = dict.fromkeys(methods.COLUMNS, 0) | {"model": "vit_fashion", "method": method}
    return row | {
        "weight_bits": 3,
        "activation_bits": 3,
        "preset": preset,
        "seed": seed,
        "calibrated_top1": 60.0,
        "top1": top1,
        "seconds": seconds,
    }


@pytest.mark.parametrize("method", methods.METHODS | methods.ABLATIONS)
def test_every_method_is_a_valid_config_of_the_same_budget(method):
    cell = methods.Cell("vit_fashion", 4, 8, method, 2)
    settings = config.validated(vit_fashion.get_config(cell.argument))
    budget = settings.samples.num_samples, settings.finetuning.epochs
    assert budget == (320, 60)
    assert settings.synthesis.num_steps == (1 if method == "without synthesis" else 100)
    assert settings.seed == 2
    assert settings.quantization.weight_bits == 4


def test_the_grid_has_every_cell_once_and_more_seeds_at_three_bits():
    cells = methods.list_cells(["a", "b"], [(3, 3), (4, 8)], num_seeds=3, num_seeds_w3a3=5)
    assert len(set(cells)) == len(cells) == 2 * len(methods.METHODS) * (5 + 3)
    assert len({methods.directory_name(cell) for cell in cells}) == len(cells)
    # A grid that is stopped has compared all methods on the seeds it has.
    assert {cell.method for cell in cells[: 4 * len(methods.METHODS)]} == set(methods.METHODS)
    assert all(cell.seed == 0 for cell in cells[: 4 * len(methods.METHODS)])


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.subprocess, "run", pytest.fail)
    cell = methods.Cell("vit_fashion", 3, 3, "maskaq (paper)", 1)
    directory = tmp_path / methods.directory_name(cell)
    directory.mkdir()
    results = {
        "num_samples": 320,
        "synthesis_steps": 100,
        "epochs": 60,
        "fp_top1": 91.0,
        "calibrated_top1": 67.0,
        "quantized_top1": 80.0,
        "seconds": {"synthesis": 1.5, "finetuning": 2.5},
    }
    (directory / "results.json").write_text(json.dumps(results))
    row = methods.run(cell, tmp_path)
    assert tuple(row) == methods.COLUMNS
    assert (row["method"], row["preset"], row["top1"]) == ("maskaq", "paper", 80.0)
    assert row["seconds"] == 4.0


def test_results_hold_every_run_and_the_way_from_noise_to_real(tmp_path):
    accuracies = {"noise": (20.0, 30.0), "maskaq": (80.0, 81.0), "real": (90.0, 90.0)}
    rows = [
        _row(method, seed, top1)
        for method, values in accuracies.items()
        for seed, top1 in enumerate(values)
    ]
    methods.write_results(rows, tmp_path)
    with (tmp_path / "methods.csv").open() as file:
        assert [float(row["top1"]) for row in csv.DictReader(file)] == [20, 30, 80, 81, 90, 90]
    assert (tmp_path / "methods.png").stat().st_size > 1000
    page = (tmp_path / "methods.md").read_text()
    # (80 - 20) / 70 and (81 - 30) / 60
    assert "| maskaq | 2 | 60.00 ± 0.00 | 80.50 ± 0.71 | 0.854 ± 0.005 |" in page
    assert "| real | 2 | 60.00 ± 0.00 | 90.00 ± 0.00 | 1.000 ± 0.000 | +9.50 (" in page


def test_the_interval_is_that_of_a_paired_t_test():
    gaps = [1.0, 2.5, 0.5, 1.5, 3.0]
    mean, (low, high) = methods.paired_interval(gaps)
    expected = stats.ttest_1samp(gaps, 0).confidence_interval()
    np.testing.assert_allclose((mean, low, high), (np.mean(gaps), *expected))
