"""The benches of whole runs: what they run, what they skip, and their statistics."""

import csv
import json
import os
import sys

import numpy as np
import pytest
from scipy import stats

from benchmarks import budgets, methods, runs
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
    settings = config.validated(vit_fashion.get_config(cell.run.argument))
    budget = settings.samples.num_samples, settings.finetuning.epochs
    assert budget == (320, 60)
    is_published = "images=paper" in cell.run.argument or "preset=paper" in cell.run.argument
    assert (settings.synthesis.smoothness == 0) == is_published
    assert (settings.finetuning.optimizer == "sgd") == ("preset=paper" in cell.run.argument)
    assert settings.synthesis.num_steps == (1 if method == "without synthesis" else 100)
    assert settings.seed == 2
    assert settings.quantization.weight_bits == 4


def test_the_grid_has_every_cell_once_and_more_seeds_at_three_bits():
    cells = methods.list_cells(["a", "b"], [(3, 3), (4, 8)], num_seeds=3, num_seeds_w3a3=5)
    assert len(set(cells)) == len(cells) == 2 * len(methods.METHODS) * (5 + 3)
    assert len({cell.run.name for cell in cells}) == len(cells)
    # A grid that is stopped has compared all methods on the seeds it has.
    assert {cell.method for cell in cells[: 4 * len(methods.METHODS)]} == set(methods.METHODS)
    assert all(cell.seed == 0 for cell in cells[: 4 * len(methods.METHODS)])


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.subprocess, "Popen", pytest.fail)
    cell = methods.Cell("vit_fashion", 3, 3, "maskaq (paper)", 1)
    directory = cell.run.directory(tmp_path)
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
    assert list(runs.finish_all([cell.run], tmp_path, jobs=1)) == [(cell.run, results)]
    row = methods.make_row(cell, results)
    assert tuple(row) == methods.COLUMNS
    assert (row["method"], row["preset"], row["top1"]) == ("maskaq", "paper", 80.0)
    assert row["seconds"] == 4.0


def test_budgets_vary_images_and_refreshes_at_the_same_number_of_steps():
    points = budgets.list_points(["vit_fashion"], num_seeds=2)
    assert len({point.run.name for point in points}) == len(points) == 2 * 8
    assert len({point.run.digest for point in points}) == len(points)
    for point in points:
        flags = dict(flag.removeprefix("--config.").split("=") for flag in point.run.flags)
        images = int(flags["samples.num_samples"])
        assert images * int(flags["finetuning.epochs"]) == 320 * 60
        assert images % int(flags["samples.batch_size"]) == 0
    row = budgets.make_row(points[0], {"epochs": 480, "quantized_top1": 80.0, "seconds": {"a": 1}})
    assert tuple(row) == budgets.COLUMNS


@pytest.mark.parametrize("method", methods.METHODS | methods.ABLATIONS)
def test_a_row_tells_its_method(method):
    if method.startswith("w"):  # with and without: told from MaskAQ by their names
        assert methods.label_of(_row(method, 0, 0.0)) == method
        return
    preset = (methods.METHODS | methods.ABLATIONS)[method][1]
    assert methods.label_of(_row(method.partition(" (")[0], 0, 0.0, preset)) == method


def _fill(directory, accuracies):
    record = runs.Record(directory / "methods.csv", methods.COLUMNS)
    for method, values in accuracies.items():
        for seed, top1 in enumerate(values):
            cell = methods.Cell("vit_fashion", 3, 3, method, seed)
            record.add(cell.run, _row(method, seed, top1))
    return record


def test_results_hold_every_run_and_the_way_from_noise_to_real(tmp_path):
    accuracies = {"noise": (20.0, 30.0), "maskaq": (80.0, 81.0), "real": (90.0, 90.0)}
    record = _fill(tmp_path, accuracies)
    (tmp_path / "README.md").write_text(f"Before.\n{methods._BEGIN} old {methods._END}\nAfter.\n")
    methods.write_results(list(record.rows.values()), tmp_path)
    with (tmp_path / "methods.csv").open() as file:
        assert [float(row["top1"]) for row in csv.DictReader(file)] == [20, 30, 80, 81, 90, 90]
    assert (tmp_path / "methods.png").stat().st_size > 1000
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("Before.\n")
    assert page.endswith("\nAfter.\n")
    assert "old" not in page
    # (80 - 20) / 70 and (81 - 30) / 60
    assert "| maskaq | 2 | 60.00 ± 0.00 | 80.50 ± 0.71 | 0.854 ± 0.005 |" in page
    assert "| real | 2 | 60.00 ± 0.00 | 90.00 ± 0.00 | 1.000 ± 0.000 | +9.50 (" in page


def test_a_record_is_read_again_and_other_settings_are_another_run(tmp_path, monkeypatch):
    run = methods.Cell("vit_fashion", 3, 3, "maskaq", 0).run
    other = methods.Cell("vit_fashion", 3, 3, "maskaq", 1).run
    _fill(tmp_path, {"maskaq": (80.25,)})
    record = runs.Record(tmp_path / "methods.csv", methods.COLUMNS)
    assert list(record.rows.values()) == [_row("maskaq", 0, 80.25)]
    assert record.lacks([run, other]) == [other]
    before = run.digest
    monkeypatch.setattr(vit_fashion.common, "_use_best_training", lambda config: None)
    assert run.digest != before
    assert record.lacks([run, other]) == [run, other]


def test_runs_side_by_side_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    shares = []

    def finish(directory, config, *flags, cores):
        shares.append(cores)
        return {}

    monkeypatch.setattr(runs, "finish", finish)
    cells = [methods.Cell("vit_fashion", 3, 3, "maskaq", seed).run for seed in range(6)]
    finished = list(runs.finish_all(cells, tmp_path, jobs=2))
    assert {run for run, _ in finished} == set(cells)
    assert set(shares) <= {frozenset({0, 2}), frozenset({1})}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can't be chosen")
def test_a_run_stays_on_its_cores(tmp_path, monkeypatch):
    core = min(os.sched_getaffinity(0))
    script = (
        "import os, sys, time; time.sleep(0.5); print(sorted(os.sched_getaffinity(0))); sys.exit(3)"
    )
    (tmp_path / "python").write_text(f"#!/bin/sh\nexec {sys.executable} -c '{script}'\n")
    monkeypatch.setattr(runs.sys, "executable", tmp_path / "python")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(runs.subprocess.CalledProcessError):
        runs.finish(tmp_path / "run", "vit_fashion.py", cores=frozenset({core}))
    assert (tmp_path / "run.log").read_text() == f"[{core}]\n"


def test_the_interval_is_that_of_a_paired_t_test():
    gaps = [1.0, 2.5, 0.5, 1.5, 3.0]
    mean, (low, high) = methods.paired_interval(gaps)
    expected = stats.ttest_1samp(gaps, 0).confidence_interval()
    np.testing.assert_allclose((mean, low, high), (np.mean(gaps), *expected))
