"""How runs are grouped into rows and tables, and which runs are not comparable."""

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


def test_seeds_are_averaged_and_rows_are_sorted_by_the_main_metric(
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


def test_a_row_has_a_cost(compared: Compared) -> None:
    (table,) = compared(MadeUp(), MadeUp(seed=1, steps=60)).tables

    assert len(table.rows) == 2  # another budget is another row
    cost = table.rows[0].cost
    assert (cost.num_trainable, cost.num_stored, cost.tokens_per_s, cost.peak_memory_bytes) == (
        1_000,
        100,
        400.0,
        2 * 10**8,
    )
    assert cost.bundle_bytes == BUNDLE_BYTES


def test_every_task_and_backbone_has_a_table_of_its_own(compared: Compared) -> None:
    found = compared(MadeUp(), MadeUp(backbone="big"), MadeUp(task="rivers", task_version="7"))

    assert [(table.task, table.backbone) for table in found.tables] == [
        ("rivers", "tiny"),
        ("towns", "big"),
        ("towns", "tiny"),
    ]


def test_the_newer_of_two_runs_with_the_same_seed_counts(folders: Runs) -> None:
    old, new = folders(MadeUp(bleu=10), MadeUp(bleu=20))
    os.utime(old.record, (1, 1))

    found = compare(read_runs([new, old], ())[0])

    assert found.tables[0].rows[0].summaries["test/bleu"].mean == 20
    assert [(one.path, "a newer run" in one.reason) for one in found.excluded] == [(old.path, True)]


def test_search_and_confirmation_runs_never_share_a_row(tmp_path: Path) -> None:
    found = make_run(tmp_path / "study/lora/0", bleu=60, seed=0, study="study")
    confirmed = [make_run(tmp_path / f"study/confirm/{n}", bleu=50, seed=n + 1, study="study") for n in range(2)]
    alone = make_run(tmp_path / "runs/confirm/0", bleu=40, seed=0)

    def table(*folders: RunFolder) -> Table:
        (one,) = compare(read_runs(list(folders), ())[0]).tables
        return one

    def rows(*folders: RunFolder) -> list[tuple[str, tuple[int, ...]]]:
        return [(row.label, row.seeds) for row in table(*folders).rows]

    (warning,) = (caveat for caveat in table(found, *confirmed).caveats if "phase=search" in caveat)
    assert warning.endswith(f"ptl-prefix compare {tmp_path / 'study/confirm'}")
    assert not any("phase=search" in caveat for caveat in (*table(*confirmed, alone).caveats, *table(found).caveats))
    assert rows(found, *confirmed) == [("prefix_tuning phase=search", (0,)), ("prefix_tuning phase=confirm", (1, 2))]
    assert rows(*confirmed, alone) == [("prefix_tuning", (0, 1, 2))], "no search, no difference"
    assert rows(found) == [("prefix_tuning", (0,))]


def test_the_phase_does_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        (MadeUp(task_version="2"), "same version of the task, but found 1 in"),
        (MadeUp(weights="c" * 64), "must use the same backbone weights"),
        (MadeUp(decoding=dataclasses.replace(GREEDY, num_beams=5)), "decoding settings, but found num_beams=1 in"),
        (MadeUp(hypotheses="ab", references="ab"), "same number of inputs, but found 3 in"),
        (MadeUp(references=("a town", "a city", "a hill")), "tested on the same inputs and references"),
        (
            MadeUp(infos={**INFOS, "test/bleu": dataclasses.replace(BLEU, scale="0-1")}),
            "in all runs of towns on tiny, but found scale 0-100",
        ),
        (
            MadeUp(infos={**INFOS, "test/bleu": dataclasses.replace(BLEU, version="2")}),
            "`test/bleu` must have the same scale, direction and version",
        ),
    ],
)
def test_runs_that_are_not_comparable_are_named(folders: Runs, other: MadeUp, fact: str) -> None:
    first, second = folders(MadeUp(), dataclasses.replace(other, seed=1))

    with pytest.raises(ComparisonError) as error:
        compare(read_runs([first, second], ())[0])

    assert fact in str(error.value)
    assert str(first.path) in str(error.value)
    assert str(second.path) in str(error.value)


def test_metrics_of_different_library_versions_are_comparable(compared: Compared) -> None:
    newer = {**INFOS, "test/bleu": dataclasses.replace(BLEU, library="sacrebleu 2.7.0")}

    assert len(compared(MadeUp(), MadeUp(seed=1, infos=newer)).tables[0].rows[0].runs) == 2


def test_every_reason_is_given_at_once(compared: Compared) -> None:
    runs = [MadeUp(), MadeUp(seed=1, task_version="2"), MadeUp(task="rivers"), MadeUp(task="rivers", weights="c" * 64)]

    with pytest.raises(ComparisonError) as error:
        compared(*runs, metric="test/blue")

    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert any(
        "`metric` must" in line and "rivers on tiny (test/bleu, val/loss), but is test/blue" in line for line in lines
    )


def test_a_comparison_without_finished_runs_names_the_excluded_runs(folders: Runs) -> None:
    runs, excluded = read_runs(folders(MadeUp(status="failed")), ())

    with pytest.raises(ComparisonError, match=r"finished run.*\n  - .*/runs/0 failed"):
        compare(runs, excluded)


def test_full_evaluations_are_used_only_if_every_run_has_one(folders: Runs) -> None:
    runs = [MadeUp(seed=seed, num_examples=3) for seed in (0, 1)]
    made = folders(*runs)
    evaluate_run(made[0], runs[0], bleu=71.0, num_in_split=3)

    half = compare(read_runs(made, ())[0]).tables[0]
    evaluate_run(made[1], runs[1], bleu=73.0, num_in_split=3)
    whole = compare(read_runs(made, ())[0]).tables[0]

    assert half.rows[0].summaries["test/bleu"].mean == 50.0
    assert any("1 of 2 runs have an evaluation of the full test split" in one for one in half.caveats)
    assert whole.rows[0].summaries["test/bleu"].mean == 72.0
    assert whole.rows[0].summaries["val/loss"].mean == 1.0
    assert any("full test split (3 inputs)" in one for one in whole.caveats)
