"""Nothing is lost when a run stops."""

import dataclasses
import json
import os
import signal

import pytest

from maskaq_jax import run
from maskaq_jax.runs import interruption
from maskaq_jax.synthesis import loop as synthesis_loop
from tests import tiny

pytestmark = tiny.ignore_orbax_warnings


@pytest.fixture
def one_step_a_dispatch(monkeypatch):
    """So that runs come by what they do within a batch."""
    monkeypatch.setattr(synthesis_loop, "STEPS_PER_DISPATCH", 1)


# The progress: two batches of three steps, six training steps, two batches and so on.
@pytest.mark.parametrize(
    ("calls", "saved", "kept"),
    [
        pytest.param(5, [], tiny.work(0, 3 + 1, 0), marks=pytest.mark.slow),
        pytest.param(8, [0, 1], tiny.work(120 + 12, 6, 1), marks=pytest.mark.slow),
        pytest.param(11, [0, 3, 4], tiny.work(120 + 24, 6, 4), marks=pytest.mark.slow),
        (17, [0, 3, 5, 6], tiny.work(120 + 24, 6 + 3 + 1, 6)),
    ],
)
@pytest.mark.usefixtures("one_step_a_dispatch")
def test_a_stopped_run_continues_to_the_same_bits(
    finished, settings, tmp_path, monkeypatch, calls, saved, kept
):
    """Stops at the n-th progress of synthesis or fine-tuning, then starts again."""
    workdir = tmp_path / "stopped"
    tiny.run_until(tiny.prepare(settings, workdir), monkeypatch, calls)
    assert tiny.checkpoints(workdir) == saved
    results, resumed = tiny.run_counting_work(tiny.prepare(settings, workdir), monkeypatch)
    assert resumed == kept
    tiny.assert_same_run(workdir, results, finished)


# The questions: after an evaluation, two batches of three steps, an evaluation, a comparison of 12
# images, three training steps, a comparison, three steps, a comparison, two batches and so on.
@pytest.mark.parametrize(
    ("signals", "saved", "kept"),
    [
        pytest.param(1, [], 0, marks=pytest.mark.slow),
        pytest.param(3, [], tiny.work(0, 2, 0), marks=pytest.mark.slow),
        pytest.param(4, [], tiny.work(0, 3, 0), marks=pytest.mark.slow),
        pytest.param(8, [0], tiny.work(60, 6, 0), marks=pytest.mark.slow),
        (14, [0, 3, 4], tiny.work(120 + 24, 6, 4)),
        pytest.param(23, [0, 3, 6], tiny.work(120 + 24, 6 + 6, 6), marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("one_step_a_dispatch")
def test_a_run_told_to_stop_saves_and_continues_to_the_same_bits(
    finished, settings, tmp_path, monkeypatch, signals, saved, kept
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
    assert tiny.checkpoints(tmp_path / "run") == saved
    spent = tmp_path / "run" / "seconds.json"
    # After the first evaluation nothing is kept.
    assert spent.exists() == (signals > 1)
    spent.write_text(json.dumps({"synthesis": 1000.0}))
    inputs = tiny.prepare(settings, tmp_path / "run")
    results, resumed = tiny.run_counting_work(inputs, monkeypatch)
    assert resumed == kept
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
