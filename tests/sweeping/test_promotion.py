"""Which paused trial is promoted next."""

import math

from hypothesis import given
from hypothesis import strategies as st

from ptl_prefix.sweeping.promotion import is_promoted, next_promoted
from ptl_prefix.sweeping.trial import State, Trial, rung_notes


def trial(number: int, state: State, rungs: dict[int, float]) -> Trial:
    notes = {**rung_notes(rungs), **({"paused_at": max(rungs)} if state == "paused" else {})}
    return Trial(
        arm="",
        number=number,
        trial_id=number,
        state=state,
        params={},
        intermediate_values={},
        value=None,
        notes=notes,
    )


TRIALS = st.lists(
    st.tuples(st.sampled_from(["paused", "running", "finished"]), st.lists(st.integers(0, 4), min_size=1, max_size=3)),
    max_size=12,
)


@given(TRIALS, st.integers(2, 4))
def test_the_next_promoted_trial_is_the_first_that_the_rule_promotes(
    made: list[tuple[State, list[int]]], factor: int
) -> None:
    trials = [
        trial(number, state, {10 * 3**rung: float(value) for rung, value in enumerate(values)})
        for number, (state, values) in enumerate(made)
    ]

    def follows_the_rule(one: Trial) -> bool:
        rung = int(one.notes["paused_at"])
        others = [other.rungs[rung] for other in trials if other is not one and rung in other.rungs]
        return is_promoted(one.rungs[rung], others, factor)

    expected = next((one for one in trials if one.state == "paused" and follows_the_rule(one)), None)
    assert next_promoted(trials, factor) is expected


def test_a_loss_that_is_no_number_is_never_promoted() -> None:
    values = [math.nan, 1.0, math.nan, math.nan]
    trials = [trial(number, "paused", {10: value}) for number, value in enumerate(values)]

    promoted = next_promoted(trials, 2)

    assert promoted is trials[1]
