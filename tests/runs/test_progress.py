import pytest

from maskaq_jax.runs.progress import Progress, time

WORK = {"synthesis": 2.0, "finetuning": 1.0}


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told."""
    times = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: times[0])

    def wait(seconds):
        times[0] += seconds

    return wait


@pytest.fixture
def progress(tmp_path, clock):
    with Progress(tmp_path / "seconds.json", WORK, total_work=100.0) as progress:
        yield progress


def test_phases_are_timed(progress, clock):
    for _ in range(2):
        with progress.phase("synthesis"):
            clock(3.0)
    assert progress.seconds == {"synthesis": 6.0, "finetuning": 0.0}


def test_a_phase_that_fails_is_timed_too(progress, clock):
    def fail():
        with progress.phase("finetuning"):
            clock(2.0)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert progress.seconds["finetuning"] == 2.0


def test_progress_lines_tell_what_is_left(progress, clock, capsys):
    with progress.phase("synthesis") as advance:
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


def test_a_continued_run_counts_what_it_did_and_estimates_from_now(progress, clock, capsys):
    progress.resume(work=40.0)
    progress.keep("synthesis", units=10)
    with progress.phase("finetuning") as advance:
        clock(20.0)
        advance(20)
    assert capsys.readouterr().err == "finetuning: 80% of the run done, about 20 s left\n"
    assert progress.seconds == {"synthesis": 0.0, "finetuning": 20.0}


def test_time_is_counted_over_starts_up_to_where_it_was_stored(tmp_path, clock):
    for _ in range(2):
        with (
            Progress(tmp_path / "seconds.json", WORK, 1.0) as progress,
            progress.phase("synthesis") as done,
        ):
            progress.seconds["finetuning"] += 5.0
            clock(20.0)
            done(1)
            progress.store_seconds("synthesis")
            clock(1.0)
    with Progress(tmp_path / "seconds.json", WORK, 1.0) as progress:
        assert progress.seconds == {"synthesis": 40.0, "finetuning": 0.0}
    (tmp_path / "seconds.json").write_text("[")
    with Progress(tmp_path / "seconds.json", WORK, 1.0) as progress:
        assert progress.seconds == {"synthesis": 0.0, "finetuning": 0.0}


def test_a_path_is_shown_as_it_is(progress, capsys):
    progress.warn("/data/val[raw]/:bug:/[/b]/1.png is broken")
    assert "/data/val[raw]/:bug:/[/b]/1.png is broken" in capsys.readouterr().err


def test_a_silent_one_shows_and_writes_nothing(tmp_path, capsys):
    with Progress(tmp_path / "seconds.json", WORK, 1.0, is_silent=True) as progress:
        progress.resume(work=0.5)
        progress.store_seconds("synthesis")
        progress.warn("a file is damaged")
        assert capsys.readouterr() == ("", "")
        progress.message_of_process("an image of its own is broken")
        assert capsys.readouterr() == ("", "process 0: an image of its own is broken\n")
    assert not any(tmp_path.iterdir())
