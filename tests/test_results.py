import pytest

from maskaq_jax import results


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(60.0, 59.9, True), (60.0, 60.0, False), (60.0, 85.5, False), (None, None, False)],
)
def test_a_model_worse_than_its_calibration_is_noticed(before, after, expected):
    summary = {"calibrated_top1": before, "quantized_top1": after}
    assert results.lost_accuracy(summary) == expected
