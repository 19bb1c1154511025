import errno
import threading

import pytest

from maskaq_jax import interruption


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
