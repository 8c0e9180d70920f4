"""Places on a clock that the test moves: bounds, fairness between clients, and when to try again."""

from contextlib import ExitStack

import pytest

from ptl_prefix.serving.admission import Admission
from ptl_prefix.serving.api_error import ApiError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Admission:
    return Admission(max_requests=4, max_requests_per_client=3, clock=clock)


def refusal(admission: Admission, client: str, num: int = 1) -> ApiError:
    with pytest.raises(ApiError) as refused, admission.places(client, num):
        pass
    return refused.value


def test_one_client_cannot_take_every_place(admission: Admission) -> None:
    with admission.places("alice", 3):
        assert (refusal(admission, "alice").status, refusal(admission, "alice").code) == (429, "client_queue_full")
        with admission.places("bob", 1):
            assert refusal(admission, "bob").code == "queue_full"
            assert admission.num_held == 4
    assert admission.num_held == 0


def test_a_refused_request_holds_no_place_and_a_failed_one_gives_it_back(admission: Admission) -> None:
    assert refusal(admission, "alice", num=4).status == 400  # there never will be as many
    with admission.places("alice", 2):
        assert refusal(admission, "alice", num=2).status == 429
    with pytest.raises(KeyError), admission.places("alice", 3):
        raise KeyError
    with admission.places("alice", 3):
        pass


def test_the_time_to_try_again_is_that_in_which_a_place_becomes_free(admission: Admission, clock: Clock) -> None:
    with ExitStack() as stack:
        stack.enter_context(admission.places("bob", 3))
        assert refusal(admission, "alice", num=2).retry_after_s == 1  # nothing is known yet
        for _ in range(4):
            with admission.places("alice", 1):
                clock.now += 8
        # Four places were freed in the 24 s from the first to the last.
        assert refusal(admission, "alice", num=2).retry_after_s == 6
        clock.now += 10_000
        assert refusal(admission, "alice", num=2).retry_after_s == 60


def test_while_draining_nothing_is_accepted_and_what_runs_goes_on(admission: Admission) -> None:
    with admission.places("alice", 1):
        admission.is_draining = True
        refused = refusal(admission, "bob")
        assert (refused.status, refused.code) == (503, "draining")
        assert refused.headers["retry-after"] == "60"
        assert admission.num_held == 1
