from pathlib import Path

import pytest

from benchmarks import paper

SOURCE = paper.Source(Path("/images"), Path("/weights"), ("--config.samples.num_samples=8",))


def _row(seed, top1, **changes):
    results = {"fp_top1": 72.0, "calibrated_top1": 60.0, "quantized_top1": top1}
    results |= {"num_evaluated": 50_000, "seconds": {"synthesis": 30.0}, "device": "1 x cpu"}
    cell = paper.Cell("deit_t", 4, 4, "best", seed)
    return paper.make_row(cell, results, SOURCE) | changes


def test_the_table_has_ours_beside_the_paper_s():
    table = paper.make_table([_row(0, 60.0), _row(1, 62.0)])
    line = table.splitlines()[2]
    assert line.startswith("| DeiT-T | W4A4 | best | 72.00 (72.21) | 60.00 ± 0.00 | 61.00 ± 1.41 |")
    assert "| 53.10 | 50000 | 30 | 2 |" in line


@pytest.mark.parametrize("model", paper.BACKBONES)
def test_every_backbone_has_a_config_and_the_paper_s_figures(model):
    _, _, published = paper.BACKBONES[model]
    assert published.keys() == set(paper.BITS)
    assert paper.Cell(model, 4, 8, "paper", 0).run(SOURCE).argument.startswith("w=4,a=8,preset=p")


def test_a_row_is_of_the_run_that_made_it():
    row = _row(3, 50.0)
    assert paper.run_of(row, SOURCE) == paper.Cell("deit_t", 4, 4, "best", 3).run(SOURCE)
    assert paper.run_of(row | {"fields": ""}, SOURCE) is None
    assert paper.run_of(row | {"model": "resnet"}, SOURCE) is None
