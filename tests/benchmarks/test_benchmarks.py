"""The benches of whole runs: what they run, what they skip, and their statistics."""

import csv
import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from benchmarks import budgets, methods, parts, real, runs, scenes, tables
from configs import vit_fashion
from maskaq_jax import config, schema
from maskaq_jax.finetuning import step as finetuning
from maskaq_jax.finetuning.step import FinetuningSettings
from maskaq_jax.runs import interruption

RESULTS = Path(__file__).parents[2] / "docs" / "results"


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
    is_plain = is_published or method == "without background"
    assert settings.synthesis.background == ("none" if is_plain else "auto")
    is_made_once = method == "without refresh" or not config.METHODS[settings.method].refreshes
    assert settings.samples.refresh_every == (0 if is_made_once else 30)
    assert settings.seed == 2
    assert settings.quantization.weight_bits == 4


def test_the_grid_has_every_cell_once_and_more_seeds_at_three_bits():
    some = methods.list_cells(["a"], [(4, 4)], 5, 5, ["noise", "real"])
    assert [(cell.method, cell.seed) for cell in some] == [
        (name, seed) for seed in range(5) for name in ("noise", "real")
    ]
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
    settings = config.as_dict(config.validated(vit_fashion.get_config(cell.run.argument)))
    (directory / "config.json").write_text(json.dumps(settings))
    assert list(runs.finish_all([cell.run], tmp_path, jobs=1)) == [(cell.run, results)]
    row = methods.make_row(cell, results)
    assert tuple(row) == methods.COLUMNS
    assert (row["method"], row["preset"], row["top1"]) == ("maskaq", "paper", 80.0)
    assert row["seconds"] == 4.0
    record = runs.Record(tmp_path / "methods.csv", methods.COLUMNS, methods.run_of)
    for _ in range(2):  # the row is new, then there from the start
        written = []
        runs.fill(record, {cell.run: cell}, methods.make_row, written.append, tmp_path, jobs=1)
        assert written == [[row]]
    assert record.rows == {cell.run.name: row}
    (directory / "config.json").write_text(json.dumps(settings | {"seed": 2}))
    with pytest.raises(RuntimeError, match="other settings than the bench has"):
        list(runs.finish_all([cell.run], tmp_path, jobs=1))


def test_budgets_vary_images_and_refreshes_at_the_same_number_of_steps():
    points = budgets.list_points(["vit_fashion"], num_seeds=2)
    assert len({point.run.name for point in points}) == len(points) == 2 * 8
    assert len({point.run.digest for point in points}) == len(points)
    for point in points:
        flags = dict(flag.removeprefix("--config.").split("=") for flag in point.run.flags)
        images = int(flags["samples.num_samples"])
        settings = dataclasses.replace(
            FinetuningSettings(), epochs=int(flags["finetuning.epochs"]), batch_size=32
        )
        assert settings.epochs * finetuning.steps_per_epoch(settings, images) == 600
        assert images % int(flags["samples.batch_size"]) == 0
        settings_of_run = config.validated(vit_fashion.get_config(point.run.argument))
        assert settings_of_run.synthesis.background == "none"
    row = budgets.make_row(points[0], {"epochs": 600, "quantized_top1": 80.0, "seconds": {"a": 1}})
    assert tuple(row) == budgets.COLUMNS


def test_the_chart_of_budgets_is_drawn_again_from_its_table(tmp_path):
    budgets.redraw(tmp_path)
    assert list(tmp_path.iterdir()) == []
    for name in ("budgets.csv", "budgets.json"):
        (tmp_path / name).write_bytes((RESULTS / name).read_bytes())
    budgets.redraw(tmp_path)
    with Image.open(tmp_path / "budgets.png") as again, Image.open(RESULTS / "budgets.png") as now:
        assert again.size == now.size


@pytest.mark.parametrize("bench", [methods, budgets, scenes])
def test_every_row_that_is_told_of_was_made_with_todays_settings(bench):
    path = RESULTS / f"{bench.__name__.rpartition('.')[-1]}.csv"
    with path.open(newline="") as file:
        num_rows = len(list(csv.DictReader(file)))
    assert len(runs.Record(path, bench.COLUMNS, bench.run_of).rows) == num_rows


def test_a_digest_outlives_a_field_that_is_added(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Later(config.Config):
        patience: int = schema.added(3)

    run = methods.Cell("vit_fashion", 3, 3, "mimiq", 0).run
    before, today = run.digest, config.validated

    def later(settings, **fields):
        now = today(settings)
        names = [field.name for field in dataclasses.fields(now)]
        return Later(**{name: getattr(now, name) for name in names}, **fields)

    monkeypatch.setattr(runs.config_lib, "validated", later)
    assert run.digest == before
    monkeypatch.setattr(runs.config_lib, "validated", lambda settings: later(settings, patience=4))
    assert run.digest != before


def test_the_bench_has_every_method():
    assert {methods.columns_of(name)["method"] for name in methods.METHODS} == set(config.METHODS)


@pytest.mark.parametrize("method", methods.METHODS | methods.ABLATIONS)
def test_a_row_tells_its_method(method):
    if method.startswith("without "):  # told from MaskAQ by its name
        assert methods.label_of(_row(method, 0, 0.0)) == method
        return
    preset = (methods.METHODS | methods.ABLATIONS)[method][1]
    assert methods.label_of(_row(method.partition(" (")[0], 0, 0.0, preset)) == method


def _fill(directory, accuracies):
    record = runs.Record(directory / "methods.csv", methods.COLUMNS, methods.run_of)
    for method, values in accuracies.items():
        for seed, top1 in enumerate(values):
            cell = methods.Cell("vit_fashion", 3, 3, method, seed)
            record.add(cell.run, _row(method, seed, top1))
    return record


def test_results_hold_every_run_and_the_way_from_noise_to_real(tmp_path):
    accuracies = {"noise": (20.0, 30.0), "maskaq": (80.0, 81.0), "real": (90.0, 90.0)}
    record = _fill(tmp_path, accuracies)
    (tmp_path / "README.md").write_text(f"Before.\n{tables.BEGIN} old {tables.END}\nAfter.\n")
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
    real = "| real | 2 | 60.00 ± 0.00 | 90.00 ± 0.00 | 1.000 ± 0.000 | +65.00 (+1.47 to +128.53) "
    assert f"{real}| +9.50 (" in page


def test_ablations_alone_have_a_table_and_no_chart(tmp_path):
    record = _fill(tmp_path, {"without entropy": (80.0,)})
    methods.write_results(list(record.rows.values()), tmp_path)
    assert "| without entropy | 1 |" in (tmp_path / "README.md").read_text()
    assert not (tmp_path / "methods.png").exists()


def test_a_record_is_read_again_and_other_settings_are_another_run(tmp_path, monkeypatch):
    run = methods.Cell("vit_fashion", 3, 3, "maskaq", 0).run
    other = methods.Cell("vit_fashion", 3, 3, "maskaq", 1).run
    _fill(tmp_path, {"maskaq": (80.25,)})

    def read():
        return runs.Record(tmp_path / "methods.csv", methods.COLUMNS, methods.run_of)

    assert list(read().rows.values()) == [_row("maskaq", 0, 80.25)]
    assert read().lacks([run, other]) == [other]
    before = run.digest
    with monkeypatch.context() as patch:
        patch.setitem(config.EMBEDDED_PRESETS["best"].training, "finetuning.block_weight", 2.0)
        assert run.digest != before
        assert read().rows == {}
        assert read().lacks([run, other]) == [run, other]
    # A kill between the two files, and a method and a model that the bench no longer has.
    table = tmp_path / "methods.csv"
    row = table.read_text().splitlines()[1]
    gone = [row.replace("maskaq", "x"), row.replace("vit_fashion", "vit_gone")]
    table.write_text(table.read_text() + "\n".join(gone) + "\n")
    assert read().lacks([run, other]) == [other]
    table.with_suffix(".json").unlink()
    assert read().lacks([run, other]) == [run, other]


def _stand_in(tmp_path, monkeypatch, script):
    """Makes runs run this instead of Python; `$2` is the flag of the work directory."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(runs.sys, "executable", str(python))


def test_a_run_that_fails_does_not_stop_the_others_and_its_log_is_named(tmp_path, monkeypatch):
    cells = [methods.Cell("vit_fashion", 3, 3, "maskaq", seed) for seed in range(3)]
    _stand_in(tmp_path, monkeypatch, 'case "$*" in *seed=0*) exit 3;; *) exit 0;; esac')
    for cell in cells[1:]:
        directory = cell.run.directory(tmp_path)
        directory.mkdir()
        settings = config.as_dict(config.validated(vit_fashion.get_config(cell.run.argument)))
        (directory / "config.json").write_text(json.dumps(settings))
        (directory / "results.json").write_text("{}")
    results = runs.finish_all([cell.run for cell in cells], tmp_path, jobs=1)
    finished = [next(results)[0] for _ in cells[1:]]
    assert finished == [cell.run for cell in cells[1:]]
    with pytest.raises(RuntimeError, match=r"(?s)1 runs failed.*maskaq_0 ended with status 3.*log"):
        next(results)


def test_runs_are_asked_to_save_what_they_have_when_the_bench_ends(tmp_path, monkeypatch):
    _stand_in(tmp_path, monkeypatch, "trap 'echo saved; exit 75' TERM; echo up; sleep 60 & wait")
    cells = [methods.Cell("vit_fashion", 3, 3, "maskaq", seed).run for seed in range(2)]
    log = cells[0].directory(tmp_path).with_suffix(".log")

    def is_terminated():
        return log.is_file() and log.read_text() == "up\n"

    with pytest.raises(interruption.Interrupted):
        list(runs.finish_all(cells, tmp_path, 1, is_terminated))
    assert log.read_text() == "up\nsaved\n"
    assert not cells[1].directory(tmp_path).with_suffix(".log").exists()


def test_a_bench_told_to_stop_saves_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    _stand_in(
        tmp_path, monkeypatch, "trap 'echo saved; exit 75' TERM; kill -TERM $PPID; sleep 60 & wait"
    )
    cell = methods.Cell("vit_fashion", 3, 3, "maskaq", 0)
    record = _fill(tmp_path, {"noise": (20.0,)})
    written = []
    with pytest.raises(SystemExit) as stopped:
        runs.fill(record, {cell.run: cell}, methods.make_row, written.append, tmp_path, jobs=1)
    assert stopped.value.code == 75
    assert "the same command continues from here" in capsys.readouterr().err
    assert written == [[_row("noise", 0, 20.0)]]
    log = cell.run.directory(tmp_path).with_suffix(".log")
    assert log.read_text() == "saved\n"


def test_runs_side_by_side_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    shares = []

    def finish(run, workdir, cores, processes):
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
    # It has them as soon as it is started, and is ended by an alarm where it never does.
    script = (
        f"import os, signal, sys; signal.alarm(60)\nwhile os.sched_getaffinity(0) != {{{core}}}:"
    )
    command = [sys.executable, "-c", f"{script} pass\nsys.exit(3)"]
    assert runs.Processes().call(command, tmp_path / "run.log", frozenset({core})) == 3


def test_tables_and_lines_go_from_the_hardest_bits_to_the_easiest():
    rows = [
        _row("real", 0, 90.0) | {"weight_bits": weight, "activation_bits": activation}
        for weight, activation in ((5, 5), (4, 8), (3, 3), (4, 4))
    ]
    expected = [(3, 3), (4, 4), (5, 5), (4, 8)]
    assert [cell[1:] for cell in methods.sort_cells(rows)] == expected
    (points,) = methods.collect_lines(rows)["vit_fashion"].values()
    assert [bits for bits, _ in points] == ["W3A3", "W4A4", "W5A5", "W4A8"]


def test_recovery_needs_a_gap_between_noise_and_real(tmp_path):
    record = _fill(tmp_path, {"noise": (90.0, 80.0), "maskaq": (85.0, 85.0), "real": (90.0, 90.0)})
    methods.write_results(list(record.rows.values()), tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| maskaq | 2 | 60.00 ± 0.00 | 85.00 ± 0.00 | 0.500 |" in page


def test_the_interval_is_that_of_a_paired_t_test():
    gaps = [1.0, 2.5, 0.5, 1.5, 3.0]
    mean, (low, high) = tables.paired_interval(gaps)
    expected = stats.ttest_1samp(gaps, 0).confidence_interval()
    np.testing.assert_allclose((mean, low, high), (np.mean(gaps), *expected))


def test_runs_of_many_fields_have_directories_of_short_names_of_their_own(tmp_path):
    subject = real.Subject("vit_small", tmp_path / "file", 10, 112, tmp_path, 1.0)
    terms = ("similarity", "classes", "coupling", "entropy", "density", "variation_gap")
    names = {
        real.Cell(subject, 4, 4, "maskaq", "test", seed, fields).run.name
        for seed in range(2)
        for value in (0.0, 1.0)
        for fields in [tuple(f"--config.synthesis.weights.{term}={value}" for term in terms)]
    }
    assert len(names) == 4
    assert all(len(name) < 150 for name in names)


def test_a_part_is_compared_image_by_image_with_the_run_that_has_all(tmp_path):
    subject = real.Subject("vit_small", tmp_path / "file", 10, 112, tmp_path, 1.0)
    group = parts.Group("A group", {"finetuning.epochs": 0}, {"other": {"calibration.ridge": 0.0}})
    random = np.random.default_rng(0)
    outcomes = {}
    for seed in range(2):
        hits = random.random(500) < 0.7
        for fields, worse in (group.base, 0.0), (group.base | group.parts["other"], 0.1):
            cell = parts.cell_of(subject, (4, 4), "test", seed, fields)
            outcomes[cell] = parts.Outcome(
                hits & (random.random(500) >= worse), np.full(500, 0.5 + worse), 100.0
            )
    table = parts.compare(subject, (4, 4), "test", group, outcomes)
    whole, other = table.splitlines()[-2:]
    assert whole.startswith("| all parts | 2 | ")
    assert other.startswith("| other | 2 | ")
    assert "| 0.600 | +0.100 (+0.100 to +0.100) | 100 |" in other
    gaps = [
        100.0 * np.subtract(other.hits, whole.hits, dtype=float)
        for whole, other in zip(*[list(outcomes.values())[i::2] for i in range(2)], strict=True)
    ]
    low, high = stats.ttest_1samp(np.mean(gaps, axis=0), 0).confidence_interval()
    assert f"{np.mean(gaps):+.1f} ({low:+.1f} to {high:+.1f})" in other
    assert parts.compare(subject, (4, 4), "test", parts.GROUPS["images"], outcomes) == ""


@pytest.mark.parametrize("name", parts.GROUPS)
def test_every_part_is_a_valid_run_of_its_own(name, tmp_path):
    subject = real.Subject("vit_small_patch14_dinov2", tmp_path / "file", 10, 112, tmp_path, 1.0)
    (tmp_path / "test").mkdir()
    (tmp_path / "file").touch()
    group = parts.GROUPS[name]
    made = [
        parts.cell_of(subject, (4, 4), "test", seed, {**group.base, **changed}).run
        for seed in range(2)
        for changed in ({}, *group.parts.values())
    ]
    assert len({run.digest for run in made}) == len(made) == 2 * (1 + len(group.parts))


def test_outcomes_are_kept_beside_their_own_run(tmp_path):
    """Names of runs have dots in them."""
    workdirs = [tmp_path / f"w4a4_samples.num_samples_{size}_0_abc" for size in (96, 384)]
    for number, workdir in enumerate(workdirs):
        values = np.full(3, number)
        np.savez(f"{workdir}.npz", hits=values == 1, divergences=values)
    found = [parts.classify(workdir, 1.0) for workdir in workdirs]
    assert [outcome.hits.mean() for outcome in found] == [0.0, 1.0]


def test_a_row_of_a_field_that_has_left_is_left_out(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "file").touch()
    subject = real.Subject("vit_small_patch14_dinov2", tmp_path / "file", 10, 112, tmp_path, 1.0)
    cell = real.Cell(subject, 4, 4, "maskaq", "test", 0, ("--config.calibration.ridge=1.0",))
    path = tmp_path / "real.csv"

    def open_record():
        return runs.Record(path, real.COLUMNS, lambda row: real.run_of(row, subject))

    results = {"fp_top1": 1.0, "calibrated_top1": 1.0, "quantized_top1": 1.0, "seconds": {}}
    open_record().add(cell.run, real.make_row(cell, results))
    assert len(open_record().rows) == 1
    table = path.read_text()
    for changed in ("calibration.left=1.0", "calibration.ridge=-1.0"):
        path.write_text(table.replace("calibration.ridge=1.0", changed))
        digests = path.with_suffix(".json")
        before = digests.read_text()
        digests.write_text(before.replace("calibration.ridge_1.0", changed.replace("=", "_")))
        assert not open_record().rows
        digests.write_text(before)


def test_a_field_that_there_is_not_is_refused_before_any_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    arguments = f"--weights={tmp_path / 'file'} --images={tmp_path} --model=vit --num_classes=10"
    monkeypatch.setattr(sys, "argv", ["real", *arguments.split(), "--field=calibration.rige=1"])
    with pytest.raises(SystemExit):
        real.main()
    assert "unknown field config.calibration.rige: did you mean 'ridge'?" in capsys.readouterr().err
