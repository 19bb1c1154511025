import io

import pytest
from rich.console import Console

from maskaq_jax.runs import results


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(60.0, 59.9, True), (60.0, 60.0, False), (60.0, 85.5, False), (None, None, False)],
)
def test_a_model_worse_than_its_calibration_is_noticed(before, after, expected):
    summary = {"calibrated_top1": before, "quantized_top1": after}
    assert results.lost_accuracy(summary) == expected


@pytest.mark.parametrize(
    ("method", "source"), [("maskaq", "with no data"), ("real", "with real images")]
)
def test_the_table_tells_accuracies_and_times(method, source):
    console = Console(record=True, width=80, file=io.StringIO())
    summary = {
        "method": method,
        "seed": 3,
        "weight_bits": 3,
        "activation_bits": 4,
        "rules": "head=8x8",
        "epochs": 60,
        "fp_top1": 91.164,
        "calibrated_top1": 60.0,
        "quantized_top1": 85.5,
        "seconds": {"synthesis": 61.2, "finetuning": 125.0},
    }
    results.print_results(console, summary)
    text = console.export_text()
    for part in (
        "W3A4, calibrated only",
        "91.16",
        "60.00",
        "85.50",
        "61 s",
        "2 min 05 s",
        "head=8x8",
        source,
    ):
        assert part in text


METRICS = {
    "detection": {"ap": (61.0, 20.0, 59.5), "ap50": (85.0, 40.0, 84.25), "ap/cat": (1.0, 2.0, 3.0)},
    "segmentation": {"miou": (81.0, 20.0, 79.5), "pixel_accuracy": (95.0, 70.0, 94.25)},
}


def _summary(task):
    names = ("fp", "calibrated", "quantized")
    metrics = {
        metric: dict(zip(names, values, strict=True)) for metric, values in METRICS[task].items()
    }
    nothing = {f"{name}_top1": None for name in names}
    rest = {"method": "maskaq", "seed": 3, "weight_bits": 4, "activation_bits": 4, "rules": ""}
    return nothing | {"metrics": metrics, "epochs": 1, "seconds": {}} | rest


@pytest.mark.parametrize(
    ("task", "titles"),
    [("detection", ("AP %", "AP50 %")), ("segmentation", ("mIoU %", "pixels %"))],
)
def test_the_table_has_the_figures_of_the_models_task(task, titles):
    console = Console(record=True, width=100, file=io.StringIO())
    results.print_results(console, _summary(task))
    text = console.export_text()
    for part in (*titles, "20.00", "59.50" if task == "detection" else "79.50", "94.25"[1:]):
        assert part in text
    assert "top-1" not in text
    assert "not measured" not in text


@pytest.mark.parametrize(("task", "metric"), [("detection", "ap"), ("segmentation", "miou")])
def test_a_detector_or_segmenter_worse_than_its_calibration_is_noticed(task, metric):
    summary = _summary(task)
    assert not results.lost_accuracy(summary)
    summary["metrics"][metric]["quantized"] = 19.0
    assert results.lost_accuracy(summary)
