import itertools

from hypothesis import given
from hypothesis import strategies as st

from maskaq_jax.runs.plan import Plan

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


def test_a_model_is_compared_at_each_refresh_and_a_few_times_between():
    plan = Plan(epochs=60, steps_per_epoch=10, refresh_every=30)
    compared = [step for step in range(plan.num_steps + 1) if plan.is_compared(step)]
    assert compared == [0, 100, 200, 300, 400, 500, 600]


@given(PLANS)
def test_comparisons_are_few_and_have_the_first_and_the_last_step(plan):
    compared = [step for step in range(plan.num_steps + 1) if plan.is_compared(step)]
    assert {0, plan.num_steps} <= set(compared)
    rounds = len(list(plan.rounds(0)))
    assert len(compared) <= 4 * rounds + 2
    for steps in plan.rounds(0):
        assert plan.is_compared(steps.start)
    assert plan.num_comparisons(plan.num_steps + 1) == (len(compared) if plan.num_steps else 0)
