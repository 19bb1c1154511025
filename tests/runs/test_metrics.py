import json

import pytest
from tensorboardX import event_file_writer

from maskaq_jax.runs.metrics import Metrics


def test_metrics_are_appended_as_they_come(tmp_path):
    for start in range(2):
        with Metrics(tmp_path) as metrics:
            metrics.write("finetuning", start, {"loss": 0.5})
            records = (tmp_path / "metrics.jsonl").read_text().splitlines()
            assert len(records) == start + 1
    assert [json.loads(record) for record in records] == [
        {"phase": "finetuning", "step": step, "loss": 0.5} for step in range(2)
    ]


def test_metrics_are_told_to_tensorboard(tmp_path):
    with Metrics(tmp_path) as metrics:
        metrics.write("finetuning", 0, {"loss": 0.5, "entropy": 0.25})
    (events,) = tmp_path.glob("events.*")
    content = events.read_bytes()
    assert b"finetuning/loss" in content
    assert b"finetuning/entropy" in content


def test_a_continued_run_forgets_what_it_writes_again(tmp_path):
    with Metrics(tmp_path) as metrics:
        metrics.write("synthesis", 5, {"loss": 0.5})
        for epoch in range(3):
            metrics.write("finetuning", epoch, {"loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "finetu')  # the program was killed
    with Metrics(tmp_path) as metrics:
        metrics.forget_finetuning(first_epoch=1)
        metrics.write("finetuning", 1, {"loss": 0.25})
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(record["phase"], record["step"]) for record in records] == [
        ("synthesis", 5),
        ("finetuning", 0),
        ("finetuning", 1),
    ]


# The thread that writes events ends by the error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_events_that_cannot_be_written_stop_no_run(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    with Metrics(tmp_path) as metrics:
        monkeypatch.setattr(event_file_writer.EventsWriter, "write_event", fail)
        for epoch in range(30):
            metrics.write("finetuning", epoch, {"loss": 0.5})
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 30


def test_a_silent_one_writes_nothing(tmp_path):
    with Metrics(tmp_path, is_silent=True) as metrics:
        metrics.forget_finetuning(first_epoch=1)
        metrics.write("finetuning", 0, {"loss": 0.5})
    assert not any(tmp_path.iterdir())
