"""Statistics over seeds, compared with scipy and with manual calculations."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ptl_prefix.reporting.statistics import compare_with_best, holm, pareto_front, summarize


def test_the_interval_of_a_mean_is_students() -> None:
    found = summarize([68.0, 70.0, 72.0])

    assert (found.mean, found.count) == (70.0, 3)
    # By hand: the deviation is 2, its error 2 / sqrt 3, and t of two degrees of freedom at 97.5% is 4.3027.
    assert found.half_width == pytest.approx(4.302653 * 2 / math.sqrt(3), rel=1e-6)
    assert found.interval == pytest.approx(stats.t.interval(0.95, 2, loc=70.0, scale=stats.sem([68.0, 70.0, 72.0])))


def test_one_seed_has_no_interval_and_equal_seeds_have_one_of_no_width() -> None:
    assert summarize([3.0]).interval is None
    assert summarize([0.1, 0.1, 0.1]).interval == pytest.approx((0.1, 0.1))


def test_rows_of_the_same_seeds_are_compared_in_pairs() -> None:
    best = {0: 70.0, 1: 75.0, 2: 80.0}
    other = {2: 78.5, 0: 69.0, 1: 73.5}

    verdict = compare_with_best({"best": best, "other": other}, "maximize")["other"]

    expected = stats.ttest_rel([69.0, 73.5, 78.5], [70.0, 75.0, 80.0])
    assert verdict.paired
    assert verdict.p == pytest.approx(expected.pvalue)
    assert verdict.difference == pytest.approx(-4 / 3)
    assert verdict.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    # Unpaired, the spread of the seeds would hide it.
    assert verdict.standing == "worse"
    assert stats.ttest_ind(list(best.values()), list(other.values())).pvalue > 0.5


def test_rows_of_other_seeds_are_compared_by_welch() -> None:
    verdict = compare_with_best({"a": {0: 1.0, 1: 2.0, 2: 3.5}, "b": {3: 0.5, 4: 0.6}}, "maximize")["b"]

    assert not verdict.paired
    assert verdict.p == pytest.approx(stats.ttest_ind([0.5, 0.6], [1.0, 2.0, 3.5], equal_var=False).pvalue)


@pytest.mark.parametrize(("direction", "best"), [("maximize", "high"), ("minimize", "low")])
def test_the_best_is_the_greatest_or_the_least(direction: str, best: str) -> None:
    samples = {"low": {0: 1.0, 1: 1.1}, "high": {0: 2.0, 1: 2.3}}

    verdicts = compare_with_best(samples, direction)  # type: ignore[arg-type]

    assert [row for row, verdict in verdicts.items() if verdict.standing == "best"] == [best]


def test_unpaired_constant_values_are_not_tested() -> None:
    verdict = compare_with_best({"a": {0: 1.0, 1: 2.0}, "b": {2: 0.5, 3: 0.5}}, "maximize")["b"]

    assert (verdict.standing, verdict.p) == ("unknown", None)


def test_single_seeds_and_constant_differences_are_not_tested() -> None:
    single = compare_with_best({"a": {0: 2.0}, "b": {0: 1.0}}, "maximize")["b"]
    constant = compare_with_best({"a": {0: 0.3, 1: 0.4}, "b": {0: 0.2, 1: 0.3}}, "maximize")["b"]
    equal = compare_with_best({"a": {0: 0.3, 1: 0.4}, "b": {0: 0.3, 1: 0.4}}, "maximize")["b"]

    assert (single.standing, single.p, single.difference) == ("unknown", None, None)
    assert (constant.standing, constant.p) == ("unknown", None)
    assert constant.difference == pytest.approx(-0.1)
    assert (equal.standing, equal.p) == ("alike", 1.0)


def test_p_values_grow_with_the_number_of_rows() -> None:
    seeds = {0: 10.0, 1: 11.0, 2: 12.5}
    near = {0: 9.0, 1: 10.2, 2: 11.2}
    alone = compare_with_best({"best": seeds, "near": near}, "maximize")["near"]
    rows = {
        "best": seeds,
        "near": near,
        **{f"row {n}": {s: v - 0.1 * n * (s + 1) for s, v in near.items()} for n in range(1, 20)},
    }

    among_many = compare_with_best(rows, "maximize")["near"]

    assert alone.standing == "worse"
    assert among_many.standing == "alike"


def test_holms_correction_is_that_of_the_paper() -> None:
    # Holm (1979): multiply the sorted values by n, n - 1, ...; none falls below an earlier one.
    assert holm({"c": 0.03, "a": 0.01, "d": 0.04, "b": 0.02}) == pytest.approx(
        {"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.06}
    )
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@given(st.dictionaries(st.integers(0, 20), st.floats(0, 1), min_size=1))
def test_a_corrected_value_is_never_less_and_keeps_the_order(p_values: dict[int, float]) -> None:
    corrected = holm(p_values)

    assert all(p_values[row] <= corrected[row] <= 1 for row in p_values)
    order = sorted(p_values, key=p_values.__getitem__)
    assert [corrected[row] for row in order] == sorted(corrected.values())


def test_the_pareto_front_has_the_rows_that_no_cheaper_row_beats() -> None:
    points = {
        "cheap": (10.0, 1.0),
        "waste": (20.0, 0.5),
        "good": (30.0, 2.0),
        "same cost, worse": (30.0, 1.5),
        "dear": (90.0, 2.0),
    }

    assert pareto_front(points, "maximize") == ["cheap", "good"]
    assert pareto_front({row: (cost, -value) for row, (cost, value) in points.items()}, "minimize") == ["cheap", "good"]
