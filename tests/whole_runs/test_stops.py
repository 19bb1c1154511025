"""Nothing is lost when a run stops."""

import dataclasses
import json
import os
import signal

import pytest

from maskaq_jax import experiment, interruption, report, run, schema
from tests import tiny

pytestmark = tiny.ignore_orbax_warnings


class _StopError(Exception):
    pass


@pytest.mark.parametrize("calls", [2, 4, 7, 10])
def test_a_stopped_run_continues_to_the_same_bits(finished, settings, tmp_path, monkeypatch, calls):
    """Stops at the n-th progress of synthesis or fine-tuning, then starts again."""
    workdir = tmp_path / "stopped"
    original = report.Reporter.phase
    seen = []

    def stopping_phase(self, name):
        context = original(self, name)
        if name == "evaluation":
            return context

        class Phase:
            def __enter__(self):
                advance = context.__enter__()

                def counting(units):
                    seen.append(units)
                    if len(seen) == calls:
                        raise _StopError
                    advance(units)

                return counting

            def __exit__(self, *exception):
                return context.__exit__(*exception)

        return Phase()

    with monkeypatch.context() as patch:
        patch.setattr(report.Reporter, "phase", stopping_phase)
        with pytest.raises(_StopError):
            run.run(tiny.prepare(settings, workdir))
    results = tiny.run_counting_work(tiny.prepare(settings, workdir), monkeypatch)
    tiny.assert_same_run(workdir, results, finished)


# The questions: after an evaluation, two batches, an evaluation, six steps, two batches and so on.
@pytest.mark.parametrize(("signals", "saved"), [(1, []), (2, []), (4, []), (8, [4]), (12, [6])])
def test_a_run_told_to_stop_saves_and_continues_to_the_same_bits(
    finished, settings, tmp_path, monkeypatch, signals, saved
):
    """SIGTERM comes while the n-th question is asked whether to stop."""
    settings = dataclasses.replace(settings, checkpoint_seconds=1e6)
    ask, asked = interruption.Clock.is_stopping, []

    def ask_after_signal(clock):
        asked.append(None)
        if len(asked) == signals:
            os.kill(os.getpid(), signal.SIGTERM)
        return ask(clock)

    with monkeypatch.context() as patch:
        patch.setattr(interruption.Clock, "is_stopping", ask_after_signal)
        with (
            interruption.catch_termination() as is_terminated,
            pytest.raises(interruption.Interrupted),
        ):
            run.run(tiny.prepare(settings, tmp_path / "run"), is_terminated)
    assert len(asked) == signals
    checkpoints = sorted(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir())
    assert checkpoints[-1:] == saved
    spent = tmp_path / "run" / "seconds.json"
    # After the first evaluation nothing is kept.
    assert spent.exists() == (signals > 1)
    spent.write_text(json.dumps({"synthesis": 1000.0}))
    results = tiny.run_counting_work(tiny.prepare(settings, tmp_path / "run"), monkeypatch)
    tiny.assert_same_run(tmp_path / "run", results, finished)
    assert results["seconds"]["synthesis"] >= 1000


@pytest.fixture
def keyboard():
    """Ctrl-C counts, as a shell has it ignored by what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("keyboard")
def test_a_second_interrupt_from_the_keyboard_ends_the_program():
    with interruption.catch_termination() as is_terminated:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            assert is_terminated()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_that_ended_before_it_began_can_start(settings, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("lock", "weights.json.unfinished", "config.json.unfinished"):
        (tmp_path / "run" / name).write_text("")
    with experiment.claim(tiny.prepare(settings, tmp_path / "run")):
        pass


def test_two_runs_do_not_share_a_directory(settings, tmp_path):
    prepared = tiny.prepare(settings, tmp_path / "run")
    with (
        experiment.claim(prepared),
        pytest.raises(schema.ConfigError, match="another run is at work in"),
        experiment.claim(prepared),
    ):
        pass
    with experiment.claim(prepared):  # which is free again
        pass
