"""The sentences that qualify a table."""

import dataclasses
import re
from collections.abc import Callable

import pytest
from support.made_up_runs import ENVIRONMENT, MadeUp

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.reporting.compared_run import read_runs
from ptl_prefix.reporting.comparison import Comparison, compare

Compared = Callable[..., Comparison]
Runs = Callable[..., list[RunFolder]]


@pytest.mark.parametrize(
    ("others", "pattern"),
    [
        ([], r"one seed\. A single seed has no confidence interval and no significance test\."),
        ([MadeUp(seed=1)], r"^Every row has 2 seeds\.$"),
        (
            [MadeUp(seed=1), MadeUp(method="lora", bleu=1.0)],
            "seeds differs between rows: one seed in #2, 2 seeds in #1.*no significance test",
        ),
        (
            [MadeUp(seed=1, bleu=52), *(MadeUp(method="lora", seed=seed, bleu=seed) for seed in (2, 3))],
            "different seeds.*paired t-test.*fewer than two seeds.*Welch's t-test",
        ),
        ([MadeUp(seed=1, steps=80)], "budgets differ, in steps: prefix_tuning trainer.max_steps=40: 40, "),
        (
            [MadeUp(settings={"rank": rank}, method="lora", steps=40 + rank) for rank in range(8)],
            "budgets differ, from 40 to 47 steps",
        ),
        ([MadeUp(seed=1)], "trained for 40 steps"),
        (
            [MadeUp(seed=1, environment={**ENVIRONMENT, "devices": ["Loom"]})],
            r"memory are not comparable.*machines: Abacus \(2 cores\), Loom \(2 cores\)\.",
        ),
        (
            [MadeUp(seed=1, environment={**ENVIRONMENT, "package_version": "0.2.0", "libraries": None})],
            "versions: ptl-prefix 0.1.0 and 0.2.0",
        ),
        (
            [
                MadeUp(seed=s, environment={**ENVIRONMENT, "git": {"commit": c * 12, "dirty": s == 2}})
                for s, c in ((1, "a"), (2, "b"))
            ],
            "commits: aaaaaaaaaa, bbbbbbbbbb",
        ),
    ],
)
def test_a_table_has_every_caveat_that_applies(compared: Compared, others: list[MadeUp], pattern: str) -> None:
    caveats = compared(MadeUp(), *others).tables[0].caveats

    assert any(re.search(pattern, caveat) for caveat in caveats), caveats


def test_a_long_list_of_included_runs_is_truncated(folders: Runs) -> None:
    made = folders(MadeUp(), *(MadeUp(seed=seed, status="pruned") for seed in range(1, 10)))

    caveats = compare(read_runs(made, ["pruned"])[0]).tables[0].caveats

    (sentence,) = (caveat for caveat in caveats if "did not finish" in caveat)
    assert sentence.count("(pruned)") == 6 and sentence.endswith(" and 3 more.")


def test_an_included_unfinished_run_is_named(folders: Runs) -> None:
    made = folders(MadeUp(), MadeUp(seed=1, status="stopped"))

    kept, excluded = read_runs(made, ())
    included, none_left = read_runs(made, ["stopped"])

    assert [one.path for one in excluded] == [made[1].path]
    assert "stopped" in excluded[0].reason and "include=[stopped]" in excluded[0].reason
    assert (len(kept), len(included), none_left) == (1, 2, [])
    assert any(f"{made[1].path} (stopped)" in one for one in compare(included).tables[0].caveats)


def test_unreadable_predictions_are_named(folders: Runs) -> None:
    (made,) = folders(dataclasses.replace(MadeUp(), num_examples=3))
    (path,) = made.evaluation.glob("*/predictions.jsonl")
    path.unlink()

    (table,) = compare(read_runs([made], ())[0]).tables

    assert any("predictions" in one and "not readable" in one for one in table.caveats)
    assert any("3 inputs that were decoded at the end of training" in one for one in table.caveats)
