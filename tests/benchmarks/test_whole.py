"""Whole runs by the clock: what is run beside what, and what is made of the figures."""

from pathlib import Path

from benchmarks import whole


def test_warm_starts_come_behind_the_cold_ones_whose_programs_they_find():
    kinds = whole.list_kinds(["vit_fashion", "smoke:w=4"], Path("/other"), with_torch=False)
    of_first = [kind for kind in kinds if kind.config == "vit_fashion"]
    assert [(kind.label, kind.start) for kind in of_first] == [
        *(("this", "cold"), ("beside", "cold"), ("this", "warm"), ("beside", "warm")),
    ]
    assert {kind.checkout for kind in kinds} == {whole.HERE, Path("/other")}


def test_pytorch_is_compared_with_our_run_of_its_settings():
    kinds = whole.list_kinds(["vit_fashion:w=4"], None, with_torch=True)
    torch = [kind for kind in kinds if kind.is_torch]
    assert [(kind.config, kind.start) for kind in torch] == [
        ("vit_fashion:w=4,preset=paper", "cold")
    ]
    assert any(kind.config == torch[0].config and kind.label == "this" for kind in kinds)


def test_nothing_is_run_twice_as_a_cold_start():
    kinds = whole.list_kinds(["vit_fashion:preset=paper"] * 2, None, with_torch=True)
    assert len(set(kinds)) == len(kinds)


def test_what_has_no_figure_has_its_times_all_the_same():
    (this, *_) = whole.list_kinds(["smoke"], None, with_torch=False)
    runs = [run | {"figure": None} for run in _runs(10, start=1.0)]
    assert whole.table({this: runs}).endswith("| 1.00 |  | start 1.0 |")


def _runs(*walls, **parts):
    return [{"wall": wall, "peak": 1.0, "figure": 86.0, "parts": parts} for wall in walls]


def test_ratios_are_of_runs_of_the_same_repeat():
    this, beside = whole.list_kinds(["smoke"], Path("/other"), with_torch=False)[:2]
    found = {this: _runs(10, 20, 30, start=1.0), beside: _runs(20, 20, 90, start=2.0)}
    *_, of_this, of_beside = whole.table(found).splitlines()
    # Of 2, 1 and 3 the median, not 20 by 20.
    assert of_beside.startswith("| smoke | beside | cold | 20.0 (20.0 to 90.0) | 2.00 |")
    assert of_this.startswith("| smoke | this | cold | 20.0 (10.0 to 30.0) |  |")
    assert of_beside.endswith("| start 2.0 |")
