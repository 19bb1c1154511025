import itertools

from hypothesis import given
from hypothesis import strategies as st

from maskaq_jax.schedule import Plan

PLANS = st.builds(
    Plan,
    epochs=st.integers(0, 12),
    steps_per_epoch=st.integers(1, 5),
    refresh_every=st.integers(0, 14),
)


def test_the_rounds_of_a_run_end_at_its_refreshes():
    plan = Plan(epochs=5, steps_per_epoch=3, refresh_every=2)
    assert list(plan.rounds(0)) == [range(6), range(6, 12), range(12, 15)]
    assert list(plan.rounds(4)) == [range(4, 6), range(6, 12), range(12, 15)]
    assert list(plan.rounds(12)) == [range(12, 15)]
    assert list(plan.rounds(15)) == [range(15, 15)]


@given(PLANS, st.data())
def test_rounds_take_every_step_left_once_and_share_their_samples(plan, data):
    first_step = data.draw(st.integers(0, plan.num_steps))
    rounds = list(plan.rounds(first_step))
    assert [step for steps in rounds for step in steps] == list(range(first_step, plan.num_steps))
    for steps in rounds:
        assert len({plan.refresh_of(step) for step in steps}) <= 1
    for before, after in itertools.pairwise(rounds):
        assert plan.refresh_of(after.start) == plan.refresh_of(before.start) + 1
