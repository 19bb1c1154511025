from maskaq_jax import interruption


def test_a_save_is_due_when_the_last_one_is_long_enough_ago(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now[0])
    clock = interruption.Clock(60.0, lambda: False)
    answers = []
    for seconds in (0.0, 59.0, 1.0):
        now[0] += seconds
        answers.append(clock.is_due())
    clock.restart()
    assert answers == [False, False, True]
    assert not clock.is_due()
    now[0] += 60.0
    assert clock.is_due()


def test_a_clock_without_seconds_is_always_due():
    clock = interruption.Clock(0.0, lambda: False)
    clock.restart()
    assert clock.is_due()


def test_a_run_stops_when_it_is_asked_to():
    asked = [False]
    clock = interruption.Clock(60.0, lambda: asked[0])
    assert not clock.is_stopping()
    asked[0] = True
    assert clock.is_stopping()
