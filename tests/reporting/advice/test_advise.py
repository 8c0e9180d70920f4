"""What advice says of made-up comparisons, and what it must never say."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_up_comparisons import LORA, PREFIX, made_up_comparison, made_up_row, made_up_table

from ptl_prefix.errors import ComparisonError
from ptl_prefix.reporting.advice.advise import TableAdvice, advise
from ptl_prefix.reporting.advice.budget import Budget
from ptl_prefix.reporting.advice.page import render_advice
from ptl_prefix.reporting.comparison_record import RowRecord, TableRecord

HIGH, LOW = {0: 60.0, 1: 61.0, 2: 62.5}, {0: 50.0, 1: 51.2, 2: 52.4}
NEAR = {0: 61.5, 1: 60.0, 2: 59.0}


def advised(*tables: TableRecord, metric: str | None = None, **limits: Any) -> TableAdvice:
    """The advice for the first table."""
    return advise([made_up_comparison(*tables)], Budget(**limits), metric=metric).tables[0]


def prefix(values: Mapping[int, float], length: int = 10, **changes: Any) -> RowRecord:
    return made_up_row("prefix_tuning", values, settings={"method.prefix_length": length}, **changes)


def lora(values: Mapping[int, float], **changes: Any) -> RowRecord:
    return made_up_row("lora", values, settings=LORA, **{"stored": 200, **changes})


def texts(findings: Any) -> str:
    return "\n".join(f"{finding.kind}: {finding.text}" for finding in findings)


def test_the_best_affordable_row_is_recommended_and_the_others_are_told_apart() -> None:
    table = made_up_table(prefix(HIGH, 20, stored=300), prefix(NEAR), lora(LOW), made_up_row("ia3", {0: 9.0}))

    found = advised(table)
    within = advised(table, max_stored_parameters=250)

    assert found.recommended is table.rows[0]
    text = texts(found.choice)
    assert "recommended: Recommended: #1 (prefix_tuning prefix_length=20) has the best mean of the 4 rows" in text
    assert "61.17 ±3.13 over 3 seeds; it is better than the bare backbone's 5.00 (+56.17, 95% interval +53.04" in text
    assert "difference: Significantly worse than #1: #3 (lora rank=4) (−9.97, 95% interval −10.35 to −9.59;" in text
    assert "no_evidence: Not significantly different from #1, which does not mean equal: #2" in text
    assert "untested: Not tested against #1: #4 (ia3 prefix_length=10) (1 shared seed, 3 are needed)." in text
    assert "Of #1 and #2, #2 is the cheapest: it stores 100 parameters, #1 300. The interval allows it to be" in text
    assert within.recommended is table.rows[1]
    fact = "Outside the budget: #1 (prefix_tuning prefix_length=20) stores 300 parameters (`max_stored_parameters`"
    assert fact in texts(within.choice)


def test_the_cheapest_row_may_be_worse_by_the_far_end_of_its_interval() -> None:
    losses = {0: 1.0, 1: 1.0, 2: 1.0}, {0: 1.2, 1: 1.0, 2: 0.9}
    large, small = ({"val/loss": one} for one in losses)
    table = made_up_table(prefix(HIGH, 20, stored=300, more=large), prefix(NEAR, more=small))

    # Differences of 1.5, -1 and -3.5 have a mean of -1 and a half width of 4.303 * 2.5 / √3 = 6.21.
    assert "#1 300. The interval allows it to be worse by 7.21." in texts(advised(table).choice)
    # Of 0.2, 0 and -0.1: 0.0333 and 0.3795; a loss is worse where it is larger.
    assert "#1 300. The interval allows it to be worse by 0.4128." in texts(advised(table, metric="val/loss").choice)


def test_the_cheapest_row_is_the_one_that_stores_the_fewest_parameters_whatever_it_trained() -> None:
    small = prefix(NEAR)
    long_trained = replace(small, cost=replace(small.cost, num_trainable=10**6, tokens=8_000.0))

    text = texts(advised(made_up_table(prefix(HIGH, 20, stored=300), long_trained)).choice)

    assert "#2 is the cheapest: it stores 100 parameters, #1 300." in text


def test_two_shared_seeds_carry_no_claim_however_clear_they_look() -> None:
    text = texts(advised(made_up_table(prefix(HIGH), lora({0: 10.0, 1: 11.1}))).findings)

    assert "untested: Not tested against #1: #2 (lora rank=4) (2 shared seeds, 3 are needed)." in text
    assert "difference: " not in text


@pytest.mark.parametrize(
    ("table", "limits", "law"),
    [
        (made_up_table(prefix({0: 60.0, 1: 61.0})), {}, "untested: Nothing is recommended: #1 (prefix_tuning"),
        (made_up_table(prefix(HIGH)), {"max_steps": 10}, "No row within the budget has test/bleu"),
        (made_up_table(prefix(HIGH, bundle_bytes=None)), {"max_bundle_bytes": 10**9}, "No row within the budget"),
        (
            made_up_table(prefix(HIGH), bare={"test/bleu": 61.0}),
            {},
            "no_evidence: Nothing is recommended: #1 (prefix_tuning prefix_length=10) is the only row within the budget"
            ", test/bleu 61.17 ±3.13 over 3 seeds, but it is not significantly better than the bare backbone's 61.00",
        ),
        (made_up_table(prefix(HIGH), bare={"test/bleu": 80.0}), {}, "difference: Nothing is recommended: #1"),
        (made_up_table(prefix(dict.fromkeys(range(3), 60.0))), {}, "+55.00 in every seed, so there is no spread"),
        (made_up_table(prefix(HIGH, phase="search")), {}, "Not considered, as a search selected among them"),
    ],
)
def test_nothing_is_recommended_that_the_numbers_do_not_carry(
    table: TableRecord, limits: Mapping[str, int], law: str
) -> None:
    found = advised(table, **limits)

    assert found.recommended is None
    assert law in texts(found.choice)


def test_without_a_bare_backbone_the_recommendation_is_among_the_rows() -> None:
    found = advised(made_up_table(prefix(HIGH), bare={}))

    assert "Recommended among these rows" in texts(found.choice)
    assert "it is not known whether any row improves on it" in texts(found.limits)


def test_a_prefix_is_argued_against_where_another_row_is_better() -> None:
    fast, slow = {0: 500.0, 1: 510.0, 2: 505.0}, {0: 100.0, 1: 109.0, 2: 106.0}
    kept, lost = {0: 0.9, 1: 0.91, 2: 0.92}, {0: 0.5, 1: 0.512, 2: 0.521}
    best = lora(HIGH, speed=fast, more={"retention/lambada": kept})
    table = made_up_table(
        best, prefix(NEAR, 20), prefix(LOW, speed=slow, more={"retention/lambada": lost}), prefix({0: 1.0}, 5)
    )

    text = texts(advised(table).against_prefix)

    assert "difference: Do not take #3 (prefix_tuning prefix_length=10) for its test/bleu: it is worse than #1" in text
    assert "#1 (lora rank=4), the best row without a prefix (−9.97" in text
    assert "It stores 100 parameters, #1 200." in text
    assert "no_evidence: No evidence of a difference in test/bleu between #2 (prefix_tuning prefix_length=20)" in text
    assert "difference: #3 (prefix_tuning prefix_length=10) is worse in retention/lambada than #1 (lora rank=4)" in text
    assert "difference: #3 (prefix_tuning prefix_length=10) is worse in tokens/s than #1 (lora rank=4) (−400," in text
    assert (
        "untested: Not tested against #1 (lora rank=4), the best row without a prefix: #4 in test/bleu (1 shared"
        in text
    )
    assert "#2 (prefix_tuning prefix_length=20) is worse in tokens/s" not in text, "its machine is not known"
    assert "#1 (prefix_tuning prefix_length=10) is better in test/bleu than #2 (lora rank=4)" in texts(
        advised(made_up_table(prefix(HIGH), lora(LOW))).against_prefix
    )
    assert "No row without a prefix is within the budget" in texts(advised(made_up_table(prefix(HIGH))).against_prefix)


@pytest.mark.parametrize(("cpu", "is_compared"), [("A CPU", True), ("Another CPU", False), ("", False)])
def test_speed_is_compared_on_one_machine_alone(cpu: str, is_compared: bool) -> None:
    def on(cpu: str, row: RowRecord) -> RowRecord:
        where = {"cpu": cpu, "cores": 2, "devices": []}
        return replace(row, runs=tuple(replace(run, environment=where) for run in row.runs))

    fast, slow = {0: 500.0, 1: 510.0, 2: 505.0}, {0: 100.0, 1: 109.0, 2: 106.0}
    table = made_up_table(on("A CPU", lora(HIGH, speed=fast)), on(cpu, prefix(LOW, speed=slow)))

    assert ("in tokens/s" in texts(advised(table).against_prefix)) == is_compared


def test_a_claim_among_more_rows_needs_more_evidence() -> None:
    near = {0: 59.0, 1: 59.5, 2: 60.5}
    one_other = made_up_table(prefix(HIGH), lora(near))
    two_others = made_up_table(prefix(HIGH), lora(near), made_up_row("ia3", near))

    # Differences of 1, 1.5 and 2: t = 5.2 with two degrees of freedom. The bare backbone is far worse.
    assert "difference: Significantly worse than #1: #2 (lora rank=4)" in texts(advised(one_other).choice)
    assert "p = 0.035 of 2 tests" in texts(advised(one_other).choice)
    assert "difference: " not in texts(advised(two_others).choice)
    assert texts(advised(two_others).choice).count("p = 0.070 of 3 tests") == 2


def test_methods_of_which_one_learning_rate_was_tried_are_named() -> None:
    other_rate = made_up_row("lora", NEAR, settings={**LORA, "optimizer.lr": 0.1})

    single = texts(advised(made_up_table(prefix(HIGH), lora(LOW))).limits)
    several = texts(advised(made_up_table(prefix(HIGH), lora(LOW), other_rate)).limits)

    assert "One learning rate was tried of lora and prefix_tuning (rows #1 and #2), so the table ranks" in single
    assert "One learning rate was tried of prefix_tuning (rows #1), so the table ranks" in several
    assert "Where several rates were tried, the best was chosen" in several
    assert "several rates" not in single


def test_gains_are_of_rows_that_differ_in_one_setting() -> None:
    table = made_up_table(
        prefix(HIGH, 20),
        prefix(LOW, 5),
        prefix(NEAR, 10),
        made_up_row("prefix_tuning", LOW, settings={**PREFIX, "task.num_train_examples": 50}),
        made_up_row("prefix_tuning", HIGH, settings={**PREFIX, "task.num_train_examples": None}),
        made_up_row("prefix_tuning", HIGH, settings={"method.prefix_length": 40, "optimizer.lr": 0.1}),
        made_up_row("prefix_tuning", {7: 1.0}, settings={"method.prefix_length": 80, "optimizer.lr": 0.1}),
    )

    found = advised(table)
    pairs = [tuple(row.number for row in finding.rows) for finding in found.gains if finding.rows]

    # Lengths 10 and 40 differ in the learning rate, too.
    assert pairs == [(2, 3), (3, 1), (2, 1), (6, 7), (4, 5)]
    text = texts(found.gains)
    assert "difference: `prefix_length` from 5 (#2) to 20 (#1): test/bleu is better (+9.97" in text
    assert (
        "no_evidence: `prefix_length` from 10 (#3) to 20 (#1): no evidence of a difference in test/bleu (+1.00" in text
    )
    assert "untested: `prefix_length` from 40 (#6) to 80 (#7): not tested (no shared seeds, 3 are needed)." in text
    assert "difference: `task.num_train_examples` from 50 (#4) to all (#5): test/bleu is better (+9.97" in text
    assert "Nothing is known of a larger backbone" in text
    assert "Nothing is known of the prefix's or prompt's length" in texts(advised(made_up_table(lora(HIGH))).gains)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        (
            {},
            "from tiny (1,000,000 parameters) (#1) to big (5,000,000 parameters) (#1 in the table of big)",
        ),
        ({"task_version": "2"}, "Big is not compared: its task has another version."),
        ({"inputs": "set 11111111"}, "its decoding or its test inputs differ"),
        ({"parameters": 10**5}, "Nothing is known of a larger backbone"),
        ({"tokenizer": "c" * 64}, "test/bleu is better"),
        ({"task": "rivers"}, "Nothing is known of a larger backbone"),
    ],
)
def test_a_larger_backbone_is_compared_where_all_else_is_equal(changes: dict[str, Any], fact: str) -> None:
    big = made_up_table(prefix(HIGH), **{"backbone": "big", "parameters": 5 * 10**6, **changes})

    assert fact in texts(advised(made_up_table(prefix(LOW)), big).gains)


def test_losses_per_token_need_one_tokenizer() -> None:
    losses = {"val/loss": {0: 1.0, 1: 1.1, 2: 1.3}}
    small = made_up_table(prefix(LOW, more=losses))
    big = made_up_table(prefix(HIGH, more=losses), backbone="big", parameters=10**9, tokenizer="c" * 64)

    assert "val/loss is per token, and the tokenizers differ" in texts(advised(small, big, metric="val/loss").gains)


def test_comparisons_that_do_not_go_together_are_refused() -> None:
    one = made_up_comparison(made_up_table(prefix(HIGH)))

    with pytest.raises(ComparisonError) as error:
        advise([one, one], Budget(), metric="test/blue")

    assert "must have one table, but 2 comparisons have towns on tiny; compare their runs together" in str(error.value)
    assert "`metric` must be a metric of towns on tiny (test/bleu, val/loss, retention/lambada), but is" in str(
        error.value
    )


def test_the_page_shows_names_as_they_are_and_marks_the_recommendation() -> None:
    row = made_up_row("my_*method*", HIGH, settings={"method.path": "<b>|`x"})
    page = render_advice(advise([made_up_comparison(made_up_table(row))], Budget(max_steps=50), metric=None))

    assert page.startswith("# towns on tiny\n\nJudged by test/bleu. Budget: max\\_steps=50.\n\n| # | method |")
    assert "- **Recommended: #1 (my\\_\\*method\\* path=\\<b\\>\\|\\`x) is the only row" in page
    assert (
        page.index("## Which method")
        < page.index("## When not")
        < page.index("## What more")
        < page.index("## What this")
    )


SEEDS = st.dictionaries(st.integers(0, 4), st.sampled_from([1.0, 1.001, 2.0, 5.0, 30.0, 30.5, 31.0]), min_size=1)
ROWS = st.tuples(st.sampled_from(["prefix_tuning", "lora"]), SEEDS, st.integers(1, 4), st.integers(1, 3))


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=6), st.floats(0, 40), st.integers(0, 4))
def test_no_claim_goes_beyond_its_interval(rows: list[Any], bare: float, most: int) -> None:
    made = [
        made_up_row(
            method,
            values,
            settings={"method.prefix_length" if method == "prefix_tuning" else "method.rank": length},
            stored=stored,
            speed={seed: 100 * value for seed, value in values.items()},
        )
        for method, values, length, stored in rows
    ]
    table = made_up_table(*made, bare={"test/bleu": bare})
    found = advised(table, max_stored_parameters=most)

    cited = {id(row) for row in table.rows}
    for finding in found.findings:
        assert all(id(row) in cited and f"#{row.number}" in finding.text for row in finding.rows)
        if finding.kind in ("difference", "recommended"):
            assert finding.tests
            for test in finding.tests:
                assert test.difference.interval is not None and test.p is not None
                assert test.difference.num_seeds >= 3 and test.p < 0.05
                assert not test.difference.interval[0] <= 0 <= test.difference.interval[1]
                assert test.numbers in finding.text
        elif finding.kind == "no_evidence":
            assert all(test.outcome == "open" for test in finding.tests)
    if found.recommended is not None:
        assert found.recommended.cost.num_stored <= most
        assert len(found.recommended.runs) >= 3
