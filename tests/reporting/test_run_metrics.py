"""Which test metrics a table shows."""

import dataclasses
from collections.abc import Callable

from support.made_up_runs import GREEDY, MadeUp, evaluate_run

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.reporting.compared_run import ComparedRun, read_runs
from ptl_prefix.reporting.run_metrics import select_metrics

Runs = Callable[..., list[RunFolder]]
BEAM = dataclasses.replace(GREEDY, num_beams=5)


def read(folders: list[RunFolder]) -> list[ComparedRun]:
    return read_runs(folders, ())[0]


def test_the_outputs_of_training_are_counted(folders: Runs) -> None:
    found = select_metrics(read(folders(MadeUp(num_examples=200))))

    assert not found.is_full_split
    assert found.by_run[0].num_examples == 3
    assert found.by_run[0].metrics == {"val/loss": 1.0, "test/bleu": 50.0}


def test_full_evaluations_with_other_decoding_settings_are_used_if_every_run_has_one(folders: Runs) -> None:
    runs = [MadeUp(seed=seed) for seed in (0, 1)]
    made = folders(*runs)
    for folder, run in zip(made, runs, strict=True):
        evaluate_run(folder, run, bleu=66.0, decoding=BEAM)

    found = select_metrics(read(made))

    assert found.is_full_split
    assert {of_run.decoding.num_beams for of_run in found.by_run} == {5}
    assert found.by_run[0].metrics == {"val/loss": 1.0, "test/loss": 1.5, "test/bleu": 66.0}
    assert found.by_run[0].outputs in made[0].evaluation.iterdir()


def test_metrics_of_the_sample_and_of_the_full_split_are_never_mixed(folders: Runs) -> None:
    run = MadeUp(more_metrics={"test/chrf": 30.0})
    made = folders(run)
    evaluate_run(made[0], run, bleu=61.0)

    assert "test/chrf" not in select_metrics(read(made)).by_run[0].metrics


def test_the_decoding_settings_of_the_record_take_precedence(folders: Runs) -> None:
    run = MadeUp()
    made = folders(run)
    evaluate_run(made[0], run, bleu=66.0, decoding=BEAM)
    evaluate_run(made[0], run, bleu=61.0)

    assert select_metrics(read(made)).by_run[0].metrics["test/bleu"] == 61.0


def test_full_evaluations_with_different_decoding_settings_are_not_used(folders: Runs) -> None:
    runs = [MadeUp(seed=seed) for seed in (0, 1)]
    made = folders(*runs)
    evaluate_run(made[0], runs[0], bleu=66.0, decoding=BEAM)
    evaluate_run(made[1], runs[1], bleu=66.0)

    found = select_metrics(read(made))

    assert not found.is_full_split
    assert "full test split are not used" in found.notes[-1]


def test_an_evaluation_of_an_older_bundle_or_a_part_of_the_split_is_not_used(folders: Runs) -> None:
    run = MadeUp()
    made = folders(run)
    evaluate_run(made[0], dataclasses.replace(run, seed=9), bleu=99.0)
    (place,) = (path.parent for path in made[0].evaluation.glob("*/metrics.json"))
    part = evaluate_run(made[0], run, bleu=98.0)
    text = (part / "metrics.json").read_text()
    (part / "metrics.json").write_text(text.replace('"num_in_split": 3', '"num_in_split": 9'))

    assert place != part
    assert not select_metrics(read(made)).is_full_split


def test_a_damaged_evaluation_is_ignored(folders: Runs) -> None:
    run = MadeUp()
    made = folders(run)
    (evaluate_run(made[0], run, bleu=98.0) / "metrics.json").write_text("{")

    assert not select_metrics(read(made)).is_full_split
