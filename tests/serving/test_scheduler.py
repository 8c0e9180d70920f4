"""Who runs next, on times and tokens that these tests make up."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ptl_prefix.serving.job import Decision, Job
from ptl_prefix.serving.scheduler import Scheduler, SchedulerSettings


def scheduler(**changes: Any) -> Scheduler:
    """A scheduler whose memory counts columns, of text and prefix alike."""
    settings = {"max_rows": 4, "max_text_bytes": 10_000, "max_prefix_bytes": 100, "chunk_tokens": 8} | changes
    return Scheduler(SchedulerSettings(**settings), lambda rows, region, columns: rows * (region + columns))


def job(name: str, **changes: Any) -> Job:
    """A short request of its own client."""
    settings: dict[str, Any] = {
        "client": name,
        "group": None,
        "version": None,
        "prefix_bytes": 0,
        "num_prefix": 0,
        "num_columns": 20,
        "num_prompt": 3,
        "arrived_s": 0.0,
    }
    return Job(request_id=name, **(settings | changes))


def add(to: Scheduler, *jobs: Job) -> None:
    for one in jobs:
        to.add(one)


def rounds(of: Scheduler, num_rounds: int, now_s: float = 0.0) -> list[Decision]:
    return [of.decide(now_s) for _ in range(num_rounds)]


def test_a_short_prompt_is_admitted_and_read_in_one_round_and_steps_from_the_next_one_on() -> None:
    under_test = scheduler()
    add(under_test, job("a"))

    assert under_test.decide(0.0) == Decision(admitted=("a",), read=(("a", 3),))
    assert under_test.decide(0.0) == Decision(step=("a",))


def test_a_prompt_of_one_token_steps_with_the_others() -> None:
    under_test = scheduler()
    add(under_test, job("a", num_prompt=1))

    assert under_test.decide(0.0) == Decision(admitted=("a",), step=("a",))


def test_a_long_prompt_is_read_in_chunks_while_others_step() -> None:
    under_test = scheduler(chunk_tokens=8)
    add(under_test, job("short"), job("long", num_prompt=20))

    found = rounds(under_test, 4)

    # The first chunk holds both prompts only if padding fits; here the long one waits for a chunk of its own.
    assert [decision.read for decision in found] == [(("short", 3),), (("long", 8),), (("long", 8),), (("long", 4),)]
    assert [decision.step for decision in found] == [(), ("short",), ("short",), ("short",)]
    assert under_test.decide(0.0).step == ("short", "long")


def test_a_chunk_that_delays_nobody_is_longer() -> None:
    under_test = scheduler(chunk_tokens=8)
    add(under_test, job("long", num_prompt=40))

    found = rounds(under_test, 3)

    assert [decision.read for decision in found] == [(("long", 32),), (("long", 8),), ()]


def test_short_prompts_share_a_chunk_as_far_as_their_padding_fits() -> None:
    under_test = scheduler(chunk_tokens=2)
    add(under_test, *(job(name, num_prompt=count) for name, count in (("a", 3), ("b", 4), ("c", 2))))

    assert under_test.decide(0.0).read == (("a", 3), ("b", 4))
    assert under_test.decide(0.0).read == (("c", 2),)


def test_rows_are_bounded_and_go_to_who_waits() -> None:
    under_test = scheduler(max_rows=2)
    add(under_test, job("a"), job("b"), job("c"))
    assert under_test.decide(0.0).admitted == ("a", "b")

    assert under_test.remove("a")

    assert under_test.decide(0.0).admitted == ("c",)
    assert not under_test.remove("a")


def test_memory_for_texts_is_bounded_by_the_widest_row() -> None:
    under_test = scheduler(max_text_bytes=100)
    add(under_test, job("narrow"), job("wide", num_columns=60), job("third"))

    assert under_test.decide(0.0).admitted == ("narrow",)  # two rows of 60 columns are too many
    under_test.remove("narrow")
    assert under_test.decide(0.0).admitted == ("wide",)
    assert "memory for texts" in str(under_test.problem_of(job("huge", num_columns=101)))
    assert under_test.problem_of(job("largest", num_columns=90, num_prefix=10)) is None


def test_memory_for_prefixes_counts_each_version_once() -> None:
    under_test = scheduler(max_prefix_bytes=100)
    of_a = {"version": "a", "prefix_bytes": 60}
    add(under_test, job("one", **of_a), job("two", **of_a), job("other", version="b", prefix_bytes=60))

    assert under_test.decide(0.0).admitted == ("one", "two")
    under_test.remove("one")
    under_test.remove("two")
    assert under_test.decide(0.0).admitted == ("other",)
    assert "memory for prefixes" in str(under_test.problem_of(job("huge", version="c", prefix_bytes=101)))


def test_the_least_served_client_is_next() -> None:
    under_test = scheduler(max_rows=1)
    greedy = [job(f"greedy {index}", client="greedy") for index in range(3)]
    add(under_test, *greedy)
    rounds(under_test, 10)
    add(under_test, job("modest", client="modest", arrived_s=9.0))

    # The newcomer starts level with who is there, so one more may come before it, and no second one.
    under_test.remove("greedy 0")
    assert under_test.decide(9.0).admitted == ("greedy 1",)
    under_test.remove("greedy 1")
    assert under_test.decide(9.0).admitted == ("modest",)


def test_rows_that_are_free_at_once_are_shared_by_what_will_be_read() -> None:
    under_test = scheduler(max_rows=2)
    add(under_test, job("first", client="a"), job("second", client="a"), job("third", client="b", arrived_s=1.0))

    assert under_test.decide(1.0).admitted == ("first", "third")


def test_a_client_that_was_away_has_no_credit() -> None:
    under_test = scheduler(max_rows=1)
    add(under_test, job("first", client="new"))
    under_test.decide(0.0)
    under_test.remove("first")
    add(under_test, *(job(f"old {index}", client="old") for index in range(3)))
    rounds(under_test, 50)
    add(under_test, *(job(f"new {index}", client="new") for index in range(3)))

    winners = []
    for _ in range(4):
        for name in [one.request_id for one in under_test._running]:
            under_test.remove(name)
        winners += under_test.decide(0.0).admitted
        rounds(under_test, 5)

    assert [name.split()[0] for name in winners] in (["new", "old"] * 2, ["old", "new"] * 2)


def test_a_client_without_a_row_gets_one_after_its_patience() -> None:
    under_test = scheduler(max_rows=2, patience_s=2.0)
    add(under_test, *(job(f"greedy {index}", client="greedy") for index in range(4)))
    rounds(under_test, 5)
    add(under_test, job("modest", client="modest", arrived_s=1.0))

    assert not under_test.decide(2.9).preempted
    decision = under_test.decide(3.0)

    assert decision.preempted == ("greedy 1",)
    assert decision.admitted == ("modest",)


def test_a_preempted_request_reads_again_what_it_had_generated() -> None:
    under_test = scheduler(max_rows=2, patience_s=0.0, chunk_tokens=100)
    add(under_test, job("first", client="greedy"), job("second", client="greedy"))
    rounds(under_test, 6)
    add(under_test, job("modest", client="modest"))
    assert under_test.decide(0.0).preempted == ("second",)

    under_test.remove("modest")
    decision = under_test.decide(0.0)

    assert decision.admitted == ("second",)
    assert decision.read == (("second", 3 + 6),)


def test_the_last_row_of_a_client_is_never_taken() -> None:
    under_test = scheduler(max_rows=1, patience_s=0.0)
    add(under_test, job("a"))
    under_test.decide(0.0)
    add(under_test, job("b"))

    assert not under_test.decide(100.0).preempted


def test_deadlines_end_waiting_and_running_requests() -> None:
    under_test = scheduler(max_rows=1)
    add(under_test, job("running", deadline_s=5.0), job("waiting", deadline_s=4.0))
    under_test.decide(0.0)

    assert under_test.decide(4.0).given_up == (("waiting", "deadline"),)
    decision = under_test.decide(5.0)

    assert decision.given_up == (("running", "deadline"),)
    assert (under_test.num_running, under_test.num_waiting) == (0, 0)
    assert under_test.decide(6.0).is_idle


def test_groups_take_turns_of_a_quantum() -> None:
    under_test = scheduler(quantum=4)
    add(under_test, job("mixed"), job("lora", group="lora"))

    groups = [decision.group for decision in rounds(under_test, 16)]

    assert set(groups) == {None, "lora"}
    changes = sum(one != other for one, other in pairwise(groups))
    assert 2 <= changes <= 4
    assert all(len(decision.step) <= 1 for decision in rounds(under_test, 4))


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["add", "end", "round", "round", "late"]),
        st.integers(0, 3),
        st.integers(1, 30),
        st.integers(1, 60),
        st.sampled_from([None, "x", "y"]),
    ),
    max_size=60,
)


@given(_EVENTS)
def test_bounds_hold_and_nobody_is_forgotten(events: Sequence[tuple[str, int, int, int, str | None]]) -> None:
    under_test = scheduler(max_rows=3, max_text_bytes=300, max_prefix_bytes=10, patience_s=1.0)
    jobs: dict[str, Job] = {}
    steps: dict[str, int] = {}
    now = 0.0
    for verb, client, to_read, columns, group in events:
        if verb == "add":
            name = f"request {len(jobs)}"
            jobs[name] = job(
                name,
                client=f"client {client}",
                group=group,
                version=group,
                prefix_bytes=0 if group is None else 6,
                num_columns=columns,
                num_prompt=to_read,
                arrived_s=now,
            )
            under_test.add(jobs[name])
        elif verb == "end" and steps:
            under_test.remove(sorted(steps)[client % len(steps)])
            del steps[sorted(steps)[client % len(steps)]]
        else:
            now += 0.1 if verb == "round" else 5.0
            decision = under_test.decide(now)
            for name in decision.step:
                steps[name] = steps.get(name, 0) + 1
            assert not {name for name, _ in decision.read} & set(decision.step)
            running = under_test._running
            assert len(running) <= 3
            if running:
                region, width = max(one.num_prefix for one in running), max(one.num_columns for one in running)
                assert len(running) * (region + width) <= 300
                assert sum({one.version: one.prefix_bytes for one in running}.values()) <= 10
            assert {jobs[name].group for name in decision.step} <= {decision.group}
            widest = max((count for _, count in decision.read), default=0)
            assert len(decision.read) * widest <= (8 if decision.step else 32)

    while under_test.num_waiting or under_test.num_running:  # every request gets its turn when others end
        decision = under_test.decide(now)
        now += 5.0
        assert not decision.is_idle
        for name in decision.step:
            under_test.remove(name)
