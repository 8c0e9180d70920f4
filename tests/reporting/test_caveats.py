"""What is said beside a table."""

import dataclasses
from collections.abc import Callable

import pytest
from support.made_up_runs import ENVIRONMENT, MadeUp

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.reporting.compared_run import read_runs
from ptl_prefix.reporting.comparison import Comparison, compare

Compared = Callable[..., Comparison]
Runs = Callable[..., list[RunFolder]]


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ([], "Every row has one seed; of one seed there is no interval, and nothing is said about chance."),
        ([MadeUp(seed=1)], "Every row has 2 seeds."),
        (
            [MadeUp(seed=1), MadeUp(method="lora", bleu=1.0)],
            "Rows differ in how many seeds they have: one seed in #2, 2 seeds in #1; of one seed there is no interval, "
            "and nothing is said about chance.",
        ),
        (
            [MadeUp(seed=1, bleu=52), *(MadeUp(method="lora", seed=seed, bleu=seed) for seed in (2, 3))],
            "Not all rows have the same seeds: two rows are tested over those that they share; where they share fewer "
            "than two, Welch's test stands in for the paired one.",
        ),
        ([MadeUp(seed=1, steps=80)], "Budgets differ, in steps: prefix_tuning trainer.max_steps=40: 40, "),
        (
            [MadeUp(settings={"rank": rank}, method="lora", steps=40 + rank) for rank in range(8)],
            "Budgets differ: rows have 40 to 47 steps, each below.",
        ),
        ([MadeUp(seed=1)], "Every row was trained for 40 steps."),
        (
            [MadeUp(seed=1, environment={**ENVIRONMENT, "devices": ["Loom"]})],
            "Tokens/s and memory are of different machines, and do not compare: Abacus (2 cores), Loom (2 cores).",
        ),
        (
            [MadeUp(seed=1, environment={**ENVIRONMENT, "package_version": "0.2.0"})],
            "Runs were made with different versions: ptl-prefix 0.1.0 and 0.2.0.",
        ),
        (
            [
                MadeUp(seed=s, environment={**ENVIRONMENT, "git": {"commit": c * 12, "dirty": s == 2}})
                for s, c in ((1, "a"), (2, "b"))
            ],
            "Runs were made by different commits: aaaaaaaaaa, bbbbbbbbbb.",
        ),
    ],
)
def test_a_table_says_what_it_rests_on(compared: Compared, others: list[MadeUp], sentence: str) -> None:
    caveats = compared(MadeUp(), *others).tables[0].caveats

    assert any(caveat.startswith(sentence) for caveat in caveats), caveats


def test_of_very_many_runs_that_are_taken_in_the_first_are_named(folders: Runs) -> None:
    made = folders(MadeUp(), *(MadeUp(seed=seed, status="pruned") for seed in range(1, 10)))

    caveats = compare(read_runs(made, ["pruned"])[0]).tables[0].caveats

    (sentence,) = (caveat for caveat in caveats if caveat.startswith("Taken in"))
    assert sentence.count("(pruned)") == 6 and sentence.endswith(" and 3 more.")


def test_a_run_that_is_taken_in_by_force_is_named(folders: Runs) -> None:
    made = folders(MadeUp(), MadeUp(seed=1, status="stopped"))

    kept, excluded = read_runs(made, ())
    forced, none_left = read_runs(made, ["stopped"])

    assert [(one.path, one.reason) for one in excluded] == [
        (made[1].path, "was stopped before its end (include=[stopped] takes it in)")
    ]
    assert (len(kept), len(forced), none_left) == (1, 2, [])
    assert any(f"{made[1].path} (stopped)" in one for one in compare(forced).tables[0].caveats)


def test_outputs_that_cannot_be_read_are_said_to_be_unknown(folders: Runs) -> None:
    (made,) = folders(dataclasses.replace(MadeUp(), num_examples=3))
    (path,) = made.evaluation.glob("*/predictions.jsonl")
    path.unlink()

    (table,) = compare(read_runs([made], ())[0]).tables

    assert any("cannot be read, so that their test inputs are not known" in one for one in table.caveats)
    assert "Test numbers are of the 3 inputs that training decoded at its end." in table.caveats
