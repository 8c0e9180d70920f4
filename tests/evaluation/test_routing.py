"""Shares of routed texts, and what wrong routing costs in a metric."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.made_up_predictions import prediction

from ptl_prefix.evaluation.regret import regrets
from ptl_prefix.evaluation.routing import FOREIGN, REFUSED, RoutedText, Share, routing_report


def test_a_report_counts_right_wrong_and_refused_by_task_group_and_for_foreign_texts() -> None:
    texts = [
        RoutedText("a", "a", "a", "seen"),
        RoutedText("a", None, "a", "unseen"),
        RoutedText("a", "b", "b", "unseen"),
        RoutedText("b", "b", "b"),
        RoutedText(None, None, "a"),
        RoutedText(None, "a", "a"),
    ]

    report = routing_report(texts)

    found = {
        (one.name, one.group): [share.count for share in (one.right, one.wrong, one.refused, one.nearest)]
        for one in (*report.tasks, report.overall)
    }
    assert found == {
        ("a", ""): [1, 1, 1, 2],
        ("a", "seen"): [1, 0, 0, 1],
        ("a", "unseen"): [0, 1, 1, 1],
        ("b", ""): [1, 0, 0, 1],
        ("", ""): [2, 1, 1, 3],
    }
    assert report.answered == Share(2, 3)
    assert report.foreign == Share(1, 2)
    assert report.confusion == {
        "a": {"a": 1, "b": 1, REFUSED: 1},
        "b": {"a": 0, "b": 1, REFUSED: 0},
        FOREIGN: {"a": 1, "b": 0, REFUSED: 1},
    }


def test_a_task_without_inputs_of_its_own_is_still_a_column() -> None:
    report = routing_report([RoutedText("a", "z", "z"), RoutedText("a", None, "z")])

    assert report.confusion == {"a": {"a": 0, REFUSED: 1, "z": 1}}
    assert report.answered == Share(0, 1)
    assert report.foreign is None
    assert routing_report([RoutedText("a", None, "z")]).answered is None


@given(of=st.integers(1, 5000), data=st.data())
def test_the_interval_holds_the_share_and_lies_in_0_to_1(of: int, data: st.DataObject) -> None:
    share = Share(data.draw(st.integers(0, of)), of)

    low, high = share.interval

    assert 0 <= low <= share.value + 1e-12
    assert share.value - 1e-12 <= high <= 1
    assert high - low > 0


def test_the_interval_is_wilsons() -> None:
    # Newcombe (1998), table I: 81 of 263, and 0 of 20.
    assert Share(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert Share(0, 20).interval == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_regret_is_the_routed_metric_minus_the_right_one_with_a_paired_interval() -> None:
    right = [prediction("yes", "yes") for _ in range(10)]
    routed = [prediction("yes", "yes") for _ in range(8)] + [prediction("no", "yes") for _ in range(2)]

    (found,) = regrets(routed, right, ["exact_match"], resamples=500, seed=0)

    assert (found.metric, found.direction, found.right) == ("exact_match", "maximize", 1.0)
    assert found.difference == pytest.approx(-0.2)
    assert found.interval == pytest.approx((-0.5, 0.0), abs=0.11)
    assert found.interval[0] < -0.2 < found.interval[1]


def test_regret_of_right_choices_is_exactly_0_and_metrics_that_do_not_fit_are_left_out() -> None:
    outputs = [prediction(f"the {word} pub", "the old pub") for word in ("old", "new", "far")]

    found = regrets(outputs, outputs, ["bleu", "slot_error_rate"], resamples=50, seed=0)

    assert [one.metric for one in found] == ["bleu"]
    assert (found[0].difference, found[0].interval) == (0.0, (0.0, 0.0))
    assert not math.isnan(found[0].right)
