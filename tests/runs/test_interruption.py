import errno
import logging
import os
import signal
import sys
import threading
import types

import pytest

from maskaq_jax.runs import interruption


def test_a_save_is_due_when_the_last_one_is_long_enough_ago(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now[0])
    clock = interruption.Clock(60.0, lambda: False)
    saved = []
    for seconds in (0.0, 59.0, 1.0, 59.0, 1.0):
        now[0] += seconds
        clock.save_if_asked(lambda: saved.append(now[0]))
    assert saved == [160.0, 220.0]
    clock.save_if_asked(lambda: saved.append("last"), is_last=True)
    assert saved[2:] == ["last"]
    now[0] += 59.0
    clock.save(lambda: saved.append("refresh"))
    now[0] += 59.0
    clock.save_if_asked(lambda: saved.append("too soon"))
    assert saved[3:] == ["refresh"]


def test_a_clock_without_seconds_is_always_due():
    clock = interruption.Clock(0.0, lambda: False)
    saved = []
    for number in range(3):
        clock.save_if_asked(lambda number=number: saved.append(number))
    assert saved == [0, 1, 2]


def test_a_run_stops_when_it_is_asked_to():
    asked = [False]
    clock = interruption.Clock(60.0, lambda: asked[0])
    assert not clock.is_stopping()
    asked[0] = True
    assert clock.is_stopping()
    saved = []
    with pytest.raises(interruption.Interrupted):
        clock.save_if_asked(lambda: saved.append("state"))
    assert saved == ["state"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("error", "is_told"), [(OSError(errno.ENOSPC, "No space"), False), (KeyError("bug"), True)]
)
def test_only_a_full_disk_fails_threads_without_a_word(error, is_told, monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))

    def fail():
        raise error

    with interruption.quiet_about_a_full_disk():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert told == ([error] if is_told else [])


def test_what_threads_of_libraries_tell_when_writing_failed_is_dropped(monkeypatch):
    passed_on = []
    monkeypatch.setattr(sys, "unraisablehook", passed_on.append)
    other = types.SimpleNamespace(exc_value=RuntimeError("anything else"))
    with interruption.quiet_about_a_full_disk():
        for error in (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            RuntimeError("Event loop is closed"),
        ):
            sys.unraisablehook(types.SimpleNamespace(exc_value=error))
        sys.unraisablehook(other)
    assert passed_on == [other]


def test_what_libraries_log_of_a_full_disk_is_dropped_and_all_else_is_not(capsys):
    logger = logging.getLogger("a library")
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        with interruption.quiet_about_a_full_disk():
            for error in (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), ValueError("other")):
                logger.error("Task exception was never retrieved", exc_info=error)
            logger.error("can't write: %s", os.strerror(errno.ENOSPC))
        logger.error("later: %s", os.strerror(errno.ENOSPC))
    finally:
        logging.getLogger().removeHandler(handler)
    told = capsys.readouterr().err
    assert told.count("never retrieved") == 1
    assert "ValueError: other" in told
    assert "can't write" not in told
    assert "later" in told


@pytest.fixture
def now(monkeypatch):
    """What a clock shows, which a test sets."""
    now = [100.0]
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now[0])
    return now


def test_a_wait_is_told_by_the_last_questions(now):
    questions = interruption.Questions(threading.Event())
    assert questions.longest_wait() is None
    for seconds in (90.0, *[2.0, 5.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]):
        questions()
        now[0] += seconds
    assert questions.longest_wait() == 90.0
    questions()
    assert questions.longest_wait() == 5.0
    # Longer than any before: nobody knows.
    now[0] += 6.0
    assert questions.longest_wait() is None


def test_questions_are_answered_by_what_was_received():
    received = threading.Event()
    questions = interruption.Questions(received)
    assert not questions()
    received.set()
    assert questions()


@pytest.mark.parametrize(
    ("number", "wait", "expected"),
    [
        (signal.SIGINT, 11.2, "SIGINT: saving, up to 12 s; Ctrl-C again to stop now"),
        (signal.SIGINT, None, "SIGINT: saving, after the step at hand; Ctrl-C again to stop now"),
        (signal.SIGTERM, 0.1, "SIGTERM: saving, up to 1 s"),
    ],
)
def test_each_signal_is_answered_once(number, wait, expected, capfd, monkeypatch):
    monkeypatch.setattr(interruption.Questions, "longest_wait", lambda self: wait)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with interruption.catch_termination(lambda number: None) as is_terminated:
        assert not is_terminated()
        os.kill(os.getpid(), number)
        assert is_terminated()
        os.kill(os.getpid(), number)
    assert capfd.readouterr().err == f"{expected}\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    # Whoever was told of signals before is told again.
    assert signal.set_wakeup_fd(-1) == -1
