"""Which runs make a row, which rows a table, and what is refused."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.made_up_runs import BLEU, BUNDLE_BYTES, GREEDY, INFOS, MadeUp, evaluate_run, make_run

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import ComparisonError
from ptl_prefix.reporting.compared_run import read_runs
from ptl_prefix.reporting.comparison import Comparison, compare
from ptl_prefix.reporting.table import Table

Compared = Callable[..., Comparison]
Runs = Callable[..., list[RunFolder]]


def test_seeds_are_taken_together_and_rows_ordered_by_the_tasks_own_metric(
    compared: Compared, two_methods: list[MadeUp]
) -> None:
    (table,) = compared(*two_methods).tables

    assert (table.task, table.backbone, table.main) == ("towns", "tiny", "test/bleu")
    assert [row.label for row in table.rows] == [
        "prefix_tuning prefix_length=20",
        "prefix_tuning prefix_length=10",
        "lora",
    ]
    assert [(row.number, row.seeds) for row in table.rows] == [(1, (0, 1, 2)), (2, (0, 1, 2)), (3, (0, 1, 2))]
    assert table.rows[0].summaries["test/bleu"].mean == pytest.approx(61.1666, abs=1e-3)
    assert [row.verdicts["test/bleu"].standing for row in table.rows] == ["best", "alike", "worse"]
    assert table.bare == {"val/loss": 3.0, "test/bleu": 5.0}
    assert list(table.metrics) == ["test/bleu", "val/loss"]


def test_a_metric_can_be_chosen_and_its_direction_is_kept(compared: Compared, two_methods: list[MadeUp]) -> None:
    (table,) = compared(
        *[dataclasses.replace(run, bleu=100 - run.bleu) for run in two_methods], metric="val/loss"
    ).tables

    assert table.main == "val/loss"
    assert [row.summaries["val/loss"].mean for row in table.rows] == sorted(
        row.summaries["val/loss"].mean for row in table.rows
    )


def test_a_row_says_what_it_takes(compared: Compared) -> None:
    (table,) = compared(MadeUp(), MadeUp(seed=1, steps=60)).tables

    assert len(table.rows) == 2  # another budget is another row
    cost = table.rows[0].cost
    assert (cost.trained, cost.stored, cost.tokens_per_s, cost.peak_memory_bytes) == (1_000, 100, 400.0, 2 * 10**8)
    assert cost.bundle_bytes == BUNDLE_BYTES


def test_every_task_and_backbone_has_a_table_of_its_own(compared: Compared) -> None:
    found = compared(MadeUp(), MadeUp(backbone="big"), MadeUp(task="rivers", task_version="7"))

    assert [(table.task, table.backbone) for table in found.tables] == [
        ("rivers", "tiny"),
        ("towns", "big"),
        ("towns", "tiny"),
    ]


def test_of_two_runs_with_one_seed_the_newer_counts_and_the_other_is_named(folders: Runs) -> None:
    old, new = folders(MadeUp(bleu=10), MadeUp(bleu=20))
    os.utime(old.record, (1, 1))

    found = compare(read_runs([new, old], ())[0])

    assert found.tables[0].rows[0].summaries["test/bleu"].mean == 20
    assert [(one.path, "a newer run" in one.reason) for one in found.excluded] == [(old.path, True)]


def test_what_a_search_has_chosen_is_no_further_seed_of_what_was_confirmed(tmp_path: Path) -> None:
    found = make_run(tmp_path / "study/lora/0", bleu=60, seed=0, study="study")
    confirmed = [make_run(tmp_path / f"study/confirm/{n}", bleu=50, seed=n + 1, study="study") for n in range(2)]
    alone = make_run(tmp_path / "runs/confirm/0", bleu=40, seed=0)

    def table(*folders: RunFolder) -> Table:
        (one,) = compare(read_runs(list(folders), ())[0]).tables
        return one

    def rows(*folders: RunFolder) -> list[tuple[str, tuple[int, ...]]]:
        return [(row.label, row.seeds) for row in table(*folders).rows]

    (warning,) = (caveat for caveat in table(found, *confirmed).caveats if "were chosen for" in caveat)
    assert warning.endswith(f"ptl-prefix compare {tmp_path / 'study/confirm'}")
    assert not any("were chosen for" in caveat for caveat in (*table(*confirmed, alone).caveats, *table(found).caveats))
    assert rows(found, *confirmed) == [("prefix_tuning phase=search", (0,)), ("prefix_tuning phase=confirm", (1, 2))]
    assert rows(*confirmed, alone) == [("prefix_tuning", (0, 1, 2))], "no search, no difference"
    assert rows(found) == [("prefix_tuning", (0,))]


def test_what_a_run_was_for_does_not_depend_on_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "study/confirm/0", study="study")
    monkeypatch.chdir(tmp_path / "study/confirm")

    (run,), _ = read_runs([RunFolder(Path("0"))], ())

    assert run.phase == "confirm"


def test_subsets_of_the_training_data_are_seeds_too(compared: Compared) -> None:
    few = {"num_train_examples": 50}
    runs = [MadeUp(seed=seed, task_settings={**few, "subset_seed": subset}) for seed in (0, 1) for subset in (0, 1)]

    (table,) = compared(*runs).tables

    assert [len(row.runs) for row in table.rows] == [4]


@pytest.mark.parametrize(
    ("other", "fact"),
    [
        (MadeUp(task_version="2"), "one version of the task, but there is 1 in"),
        (MadeUp(weights="c" * 64), "must have one backbone's weights"),
        (MadeUp(decoding=dataclasses.replace(GREEDY, num_beams=5)), "decoded alike, but there is num_beams=1 in"),
        (MadeUp(hypotheses="ab", references="ab"), "tested on as many inputs, but there is 3 in"),
        (MadeUp(references=("a town", "a city", "a hill")), "tested on the same inputs and references"),
        (
            MadeUp(infos={**INFOS, "test/bleu": dataclasses.replace(BLEU, scale="0-1")}),
            "`test/bleu` must mean the same in all runs of towns on tiny, but there is scale 0-100",
        ),
        (
            MadeUp(infos={**INFOS, "test/bleu": dataclasses.replace(BLEU, version="2")}),
            "`test/bleu` must mean the same",
        ),
    ],
)
def test_what_does_not_mean_the_same_is_refused_with_the_runs(folders: Runs, other: MadeUp, fact: str) -> None:
    first, second = folders(MadeUp(), dataclasses.replace(other, seed=1))

    with pytest.raises(ComparisonError) as refusal:
        compare(read_runs([first, second], ())[0])

    assert fact in str(refusal.value)
    assert str(first.path) in str(refusal.value)
    assert str(second.path) in str(refusal.value)


def test_another_library_for_the_same_metric_is_no_refusal(compared: Compared) -> None:
    newer = {**INFOS, "test/bleu": dataclasses.replace(BLEU, library="sacrebleu 2.7.0")}

    assert len(compared(MadeUp(), MadeUp(seed=1, infos=newer)).tables[0].rows[0].runs) == 2


def test_every_reason_is_given_at_once(compared: Compared) -> None:
    runs = [MadeUp(), MadeUp(seed=1, task_version="2"), MadeUp(task="rivers"), MadeUp(task="rivers", weights="c" * 64)]

    with pytest.raises(ComparisonError) as refusal:
        compared(*runs, metric="test/blue")

    lines = str(refusal.value).splitlines()
    assert len(lines) == 4
    assert "`metric` must be one of rivers on tiny (test/bleu, val/loss), but is test/blue." in lines


def test_nothing_to_compare_names_why(folders: Runs) -> None:
    runs, excluded = read_runs(folders(MadeUp(status="failed")), ())

    with pytest.raises(
        ComparisonError, match=r"needs a finished run, but has none; train first\.\n  - .*/runs/0 failed"
    ):
        compare(runs, excluded)


def test_the_whole_test_split_takes_the_samples_place_only_if_every_run_has_it(folders: Runs) -> None:
    runs = [MadeUp(seed=seed, num_examples=3) for seed in (0, 1)]
    made = folders(*runs)
    evaluate_run(made[0], runs[0], bleu=71.0, num_in_split=3)

    half = compare(read_runs(made, ())[0]).tables[0]
    evaluate_run(made[1], runs[1], bleu=73.0, num_in_split=3)
    whole = compare(read_runs(made, ())[0]).tables[0]

    assert half.rows[0].summaries["test/bleu"].mean == 50.0
    assert any(
        "1 of 2 runs have an evaluation of the whole test split, which is not used" in one for one in half.caveats
    )
    assert whole.rows[0].summaries["test/bleu"].mean == 72.0
    assert whole.rows[0].summaries["val/loss"].mean == 1.0
    assert "Test numbers are of the whole split, 3 inputs." in whole.caveats
