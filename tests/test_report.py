import io
import json

import pytest
from rich.console import Console
from tensorboardX import event_file_writer

from maskaq_jax import report

WORK = {"synthesis": 2.0, "finetuning": 1.0}


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told."""
    times = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: times[0])

    def wait(seconds):
        times[0] += seconds

    return wait


@pytest.fixture
def reporter(tmp_path, clock):
    with report.Reporter(tmp_path, WORK, total_work=100.0) as reporter:
        yield reporter


def test_phases_are_timed(reporter, clock):
    for _ in range(2):
        with reporter.phase("synthesis"):
            clock(3.0)
    assert reporter.seconds == {"synthesis": 6.0, "finetuning": 0.0}


def test_a_phase_that_fails_is_timed_too(reporter, clock):
    def fail():
        with reporter.phase("finetuning"):
            clock(2.0)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert reporter.seconds["finetuning"] == 2.0


def test_progress_lines_tell_what_is_left(reporter, clock, capsys):
    with reporter.phase("synthesis") as advance:
        clock(20.0)
        advance(1)  # compilation: 2% of the work says nothing of the rest
        clock(1.0)
        advance(1)  # too soon after the last line
        clock(19.0)
        advance(8)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "synthesis: 2% of the run done",
        "synthesis: 20% of the run done, about 2 min 40 s left",
    ]


def test_a_continued_run_counts_what_it_did_and_estimates_from_now(reporter, clock, capsys):
    reporter.resume(work=40.0)
    reporter.keep("synthesis", units=10)
    with reporter.phase("finetuning") as advance:
        clock(20.0)
        advance(20)
    assert capsys.readouterr().err == "finetuning: 80% of the run done, about 20 s left\n"
    assert reporter.seconds == {"synthesis": 0.0, "finetuning": 20.0}


def test_time_is_counted_over_starts_up_to_where_it_was_stored(tmp_path, clock):
    for _ in range(2):
        with report.Reporter(tmp_path, WORK, 1.0) as reporter, reporter.phase("synthesis") as done:
            reporter.seconds["finetuning"] += 5.0
            clock(20.0)
            done(1)
            reporter.store_seconds("synthesis")
            clock(1.0)
    with report.Reporter(tmp_path, WORK, 1.0) as reporter:
        assert reporter.seconds == {"synthesis": 40.0, "finetuning": 0.0}
    (tmp_path / "seconds.json").write_text("[")
    with report.Reporter(tmp_path, WORK, 1.0) as reporter:
        assert reporter.seconds == {"synthesis": 0.0, "finetuning": 0.0}


def test_metrics_are_appended_as_they_come(tmp_path):
    for start in range(2):
        with report.Reporter(tmp_path, WORK, 1.0) as reporter:
            reporter.metrics("finetuning", start, {"loss": 0.5})
            records = (tmp_path / "metrics.jsonl").read_text().splitlines()
            assert len(records) == start + 1
    assert [json.loads(record) for record in records] == [
        {"phase": "finetuning", "step": step, "loss": 0.5} for step in range(2)
    ]


def test_metrics_are_told_to_tensorboard(tmp_path):
    with report.Reporter(tmp_path, WORK, 1.0) as reporter:
        reporter.metrics("finetuning", 0, {"loss": 0.5, "entropy": 0.25})
    (events,) = tmp_path.glob("events.*")
    content = events.read_bytes()
    assert b"finetuning/loss" in content
    assert b"finetuning/entropy" in content


@pytest.mark.parametrize(
    ("method", "source"), [("maskaq", "with no data"), ("real", "with real images")]
)
def test_the_table_tells_accuracies_and_times(method, source):
    console = Console(record=True, width=80, file=io.StringIO())
    results = {
        "method": method,
        "seed": 3,
        "weight_bits": 3,
        "activation_bits": 4,
        "fp_top1": 91.164,
        "calibrated_top1": 60.0,
        "quantized_top1": 85.5,
        "seconds": {"synthesis": 61.2, "finetuning": 125.0},
    }
    report.print_results(console, results)
    text = console.export_text()
    for part in ("W3A4, calibrated only", "91.16", "60.00", "85.50", "61 s", "2 min 05 s", source):
        assert part in text


def test_a_continued_run_forgets_what_it_writes_again(tmp_path):
    with report.Reporter(tmp_path, WORK, 1.0) as reporter:
        reporter.metrics("synthesis", 5, {"loss": 0.5})
        for epoch in range(3):
            reporter.metrics("finetuning", epoch, {"loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "finetu')  # the program was killed
    with report.Reporter(tmp_path, WORK, 1.0) as reporter:
        reporter.forget_metrics(first_epoch=1)
        reporter.metrics("finetuning", 1, {"loss": 0.25})
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(record["phase"], record["step"]) for record in records] == [
        ("synthesis", 5),
        ("finetuning", 0),
        ("finetuning", 1),
    ]


def test_a_path_is_shown_as_it_is(reporter, capsys):
    reporter.warn("/data/val[raw]/:bug:/[/b]/1.png is broken")
    assert "/data/val[raw]/:bug:/[/b]/1.png is broken" in capsys.readouterr().err


# The thread that writes events ends by the error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_events_that_cannot_be_written_stop_no_run(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    with report.Reporter(tmp_path, WORK, 1.0) as reporter:
        monkeypatch.setattr(event_file_writer.EventsWriter, "write_event", fail)
        for epoch in range(30):
            reporter.metrics("finetuning", epoch, {"loss": 0.5})
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 30


def test_a_silent_reporter_shows_and_writes_nothing(tmp_path, capsys):
    with report.Reporter(tmp_path, WORK, 1.0, is_silent=True) as reporter:
        reporter.forget_metrics(first_epoch=1)
        reporter.resume(work=0.5)
        reporter.store_seconds("synthesis")
        reporter.metrics("finetuning", 0, {"loss": 0.5})
        reporter.warn("a file is damaged")
        assert capsys.readouterr() == ("", "")
        reporter.message_of_process("an image of its own is broken")
        assert capsys.readouterr() == ("", "process 0: an image of its own is broken\n")
    assert not any(tmp_path.iterdir())
