"""Evaluations: their files and folders, finished ones that never change, and killed ones that are resumed."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.evaluation_record import EvaluationKey, read_evaluation_record
from ptl_prefix.artifacts.predictions import read_predictions, write_predictions
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.evaluation import decode as decoding_room
from ptl_prefix.evaluation.evaluate import Evaluation, EvaluationJob, Measures, Subject, evaluate
from ptl_prefix.evaluation.scoring import score
from ptl_prefix.methods.no_adaptation import NoAdaptation

MEASURES = Measures(metrics=("exact_match", "attribute_accuracy"))


class Evaluator:
    """A tiny backbone, a method with some effect, and the built-in task; `run` evaluates them."""

    def __init__(self, runs: TinyRuns, out: Path, **changes: Any) -> None:
        self.plan, self.backbone = runs.attached(task__num_test=10, generation__max_new_tokens=6, **changes)
        self.out = out
        prompter = self.backbone.prompter(self.plan.task.prompt)
        self.subject = Subject(
            backbone=self.backbone, method=self.plan.method.eval(), prompter=prompter, adaptation="abc"
        )
        self.seen: list[tuple[int, int]] = []

    def run(self, measures: Measures = MEASURES, number: int | None = 7, **decoding: Any) -> Evaluation:
        """Evaluate, in batches of two."""
        job = EvaluationJob(
            subject=self.subject,
            task=self.plan.task,
            split="test",
            decoding=dataclasses.replace(self.plan.decoding, **decoding),
            measures=measures,
            num_examples=number,
            batch_size=2,
        )
        return evaluate(job, self.out, on_progress=lambda done, total: self.seen.append((done, total)))


@pytest.fixture
def evaluator(tiny_runs: TinyRuns, tmp_path: Path) -> Evaluator:
    return Evaluator(tiny_runs, tmp_path / "evaluation")


def test_an_evaluation_leaves_predictions_and_a_record_and_nothing_else(evaluator: Evaluator) -> None:
    found = evaluator.run()

    assert sorted(path.name for path in found.folder.iterdir()) == ["metrics.json", "predictions.jsonl"]
    assert found.folder.parent == evaluator.out
    assert found.folder.name.startswith("test-")
    assert read_predictions(found.folder / "predictions.jsonl") == found.predictions
    assert read_evaluation_record(found.folder / "metrics.json") == found.record
    assert evaluator.seen[0] == (0, 7)
    assert evaluator.seen[-1] == (7, 7)


def test_the_numbers_are_those_of_the_predictions_with_their_split(evaluator: Evaluator) -> None:
    record = evaluator.run(Measures(metrics=("exact_match", "attribute_accuracy"), resamples=50, seed=3)).record

    scores = score(evaluator.run().predictions, ["exact_match", "attribute_accuracy"], resamples=50, seed=3)
    assert {name: record.metrics[f"test/{name}"] for name in scores.values} == scores.values
    assert record.intervals == {f"test/{name}": ends for name, ends in scores.intervals.items()}
    assert record.metric_info.keys() == record.metrics.keys()
    assert (record.key.num_examples, record.num_in_split) == (7, 10)


def test_a_skipped_metric_is_recorded_with_its_reason(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptl_prefix.evaluation.metrics.exact_match import ExactMatch

    monkeypatch.setattr(ExactMatch, "unavailable_reason", "no luck today")

    record = evaluator.run().record

    assert record.skipped == {"exact_match": "no luck today"}
    assert "test/exact_match" not in record.metrics
    assert "test/attribute_accuracy" in record.metrics


def test_a_finished_evaluation_is_found_and_not_changed(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluator.run()
    before = {path: path.read_bytes() for path in first.folder.iterdir()}
    monkeypatch.setattr(decoding_room, "generate", lambda *_: 1 / 0)

    again = evaluator.run(Measures(metrics=("exact_match",), resamples=10))

    assert (first.was_finished, again.was_finished) == (False, True)
    assert again.record == first.record
    assert {path: path.read_bytes() for path in first.folder.iterdir()} == before


@pytest.mark.parametrize("killed_at", [0, 1, 3])
@pytest.mark.parametrize("decoding", [{}, {"do_sample": True, "temperature": 3.0}], ids=["greedy", "sampled"])
def test_a_killed_evaluation_is_resumed_and_has_the_same_outputs(
    tiny_runs: TinyRuns, tmp_path: Path, killed_at: int, decoding: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Evaluator(tiny_runs, tmp_path / "whole").run(**decoding)
    killed = Evaluator(tiny_runs, tmp_path / "killed")
    usual, calls = decoding_room.generate, 0

    def generate(*arguments: Any) -> Any:
        nonlocal calls
        if calls == killed_at:
            raise KeyboardInterrupt
        calls += 1
        return usual(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(decoding_room, "generate", generate)
        with pytest.raises(KeyboardInterrupt):
            killed.run(**decoding)
    calls = -100
    monkeypatch.setattr(decoding_room, "generate", generate)

    found = killed.run(**decoding)

    assert calls + 100 == 4 - killed_at  # four batches, and none of them twice
    assert found.folder.name == whole.folder.name
    predictions = [evaluation.folder / "predictions.jsonl" for evaluation in (found, whole)]
    assert predictions[0].read_bytes() == predictions[1].read_bytes()
    assert found.record.metrics == whole.record.metrics
    assert len({prediction.hypothesis for prediction in found.predictions}) > 1


def test_outputs_that_a_training_decoded_are_only_scored(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    key = evaluator.subject.evaluation_key(evaluator.plan.task, "test", 7, evaluator.plan.decoding, batch_size=2)
    expected = evaluator.run()
    folder = evaluator.out / key.folder_name
    (folder / "metrics.json").unlink()
    write_predictions(folder / "predictions.jsonl", expected.predictions)
    monkeypatch.setattr(decoding_room, "generate", lambda *_: 1 / 0)

    found = evaluator.run()

    assert found.record.metrics == expected.record.metrics
    assert found.record.decode_s == 0.0


CHANGES: Sequence[Mapping[str, Any]] = [
    {"method": "lora"},
    {"adaptation": "abd"},
    {"backbone_weights": "other"},
    {"dtype": "bfloat16"},
    {"task_version": "2"},
    {"data": "other"},
    {"num_examples": 8},
    {"over_labels": True},
    {"prompt": PromptFormat(between=" =>")},
    {"prompt": PromptFormat(truncation="left")},
    {"prompter": "other"},
    {"stop_ids": (7,)},
    {"backbone_config": "other"},
    {"method_settings": "other"},
    {"batch_size": 4},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_whatever_outputs_depend_on_has_a_folder_of_its_own(evaluator: Evaluator, change: Mapping[str, Any]) -> None:
    key = evaluator.subject.evaluation_key(evaluator.plan.task, "test", 7, evaluator.plan.decoding, batch_size=2)
    other = dataclasses.replace(key, **change)
    beams = dataclasses.replace(key, decoding=dataclasses.replace(key.decoding, num_beams=4))

    assert len({key.folder_name, other.folder_name, beams.folder_name}) == 3
    assert {name.partition("-")[0] for name in (key.folder_name, other.folder_name)} == {"test"}
    assert set().union(*CHANGES) | {"backbone", "task", "split", "decoding"} == {
        field.name for field in dataclasses.fields(EvaluationKey)
    }


def test_another_prompt_format_is_another_evaluation(evaluator: Evaluator) -> None:
    first = evaluator.run()
    backbone, usual = evaluator.backbone, evaluator.subject

    folders = [first.folder]
    for prompt in (PromptFormat(between=" =>"), PromptFormat(max_source_tokens=3)):
        evaluator.subject = dataclasses.replace(usual, prompter=backbone.prompter(prompt))
        folders.append(evaluator.run().folder)
    evaluator.subject = usual

    assert len(set(folders)) == 3
    assert evaluator.run().folder == first.folder
    sampled = [evaluator.run(do_sample=True, seed=1).folder for _ in range(2)]
    assert sampled[0] == sampled[1]


def test_a_bare_backbone_is_evaluated_too(evaluator: Evaluator) -> None:
    bare = evaluator.run()
    evaluator.plan.method.detach()
    evaluator.subject = dataclasses.replace(
        evaluator.subject, method=NoAdaptation().attach(evaluator.backbone), adaptation=None
    )

    other = evaluator.run()

    assert other.record.key.method == "none"
    assert other.record.metrics["test/loss"] != bare.record.metrics["test/loss"]


def test_the_likelihood_is_left_out_where_it_is_not_wanted(evaluator: Evaluator) -> None:
    record = evaluator.run(dataclasses.replace(MEASURES, likelihood=False)).record

    assert set(record.metrics) == {"test/exact_match", "test/attribute_accuracy"}


def test_a_record_is_plain_json(evaluator: Evaluator) -> None:
    found = evaluator.run()

    values = json.loads((found.folder / "metrics.json").read_text())

    assert values["question"]["decoding"]["num_beams"] == 1
    assert values["missing"] == {}
    assert values["metrics"]["test/perplexity"] == pytest.approx(
        float(torch.tensor(values["metrics"]["test/loss"], dtype=torch.float64).exp())
    )


def test_the_key_is_of_the_backbones_config_and_of_the_bundles_settings(evaluator: Evaluator) -> None:
    def folder(subject: Subject) -> str:
        return subject.evaluation_key(evaluator.plan.task, "test", 7, evaluator.plan.decoding, batch_size=2).folder_name

    before = folder(evaluator.subject)
    assert folder(dataclasses.replace(evaluator.subject, method_settings="other")) != before
    changed = dataclasses.replace(evaluator.backbone.identity, config_fingerprint="other")
    vars(evaluator.backbone)["identity"] = changed
    assert folder(evaluator.subject) != before
