"""Decode a split, score it, and leave a record that is never changed.

In: a backbone with a method, and a task's split. Out: a folder named by all that the outputs depend on, with
`predictions.jsonl` and `metrics.json`. Killed at any moment, the same call goes on from the last whole batch.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.evaluation_record import (
    PREDICTIONS_FILE,
    RECORD_FILE,
    UNFINISHED_FILE,
    EvaluationKey,
    EvaluationRecord,
    read_evaluation_record,
    write_evaluation_record,
)
from ptl_prefix.artifacts.fingerprint import environment
from ptl_prefix.artifacts.predictions import Prediction, read_predictions, write_predictions
from ptl_prefix.artifacts.unfinished_predictions import UnfinishedPredictions
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.task import Split, Task
from ptl_prefix.evaluation.decode import Rows, decode
from ptl_prefix.evaluation.likelihood import INFOS, likelihood
from ptl_prefix.evaluation.scoring import Scores
from ptl_prefix.evaluation.scoring import score as scores_of
from ptl_prefix.methods.method import Method
from ptl_prefix.settings import settings_from

SPLIT_NAMES: Mapping[Split, str] = {"train": "train", "validation": "val", "test": "test"}
"""What splits are called in metrics' keys."""


class EvaluationSettings:
    """What is decoded when training ends.

    Args:
        num_examples: Inputs of the test split, evenly spread over it; `None` is all.
        compare_bare: Whether the bare backbone decodes them too.
    """

    @settings_from("evaluation/default")
    def __init__(self, *, num_examples: Annotated[int, Ge(1)] | None, compare_bare: bool) -> None:
        self.num_examples = num_examples
        self.compare_bare = compare_bare

    def sample(self, examples: Any) -> list[Mapping[str, Any]]:
        """The rows of a split that are decoded: the same ones in every run."""
        return sample(examples, self.num_examples)


def sample(examples: Any, number: int | None) -> list[Mapping[str, Any]]:
    """So many rows of a split, evenly spread over it; `None` is all."""
    count = len(examples)
    kept = count if number is None else min(number, count)
    return [examples[index * count // kept] for index in range(kept)]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is evaluated.

    Args:
        backbone: The model.
        method: Attached to it; `NoAdaptation` for the bare one.
        prompter: Renders sources as they were in training.
        adaptation: Hash of the bundle's tensors; `None` for the bare backbone.
    """

    backbone: Backbone
    method: Method
    prompter: Prompter
    adaptation: str | None

    def question(self, task: Task, split: Split, num_examples: int, decoding: Decoding) -> EvaluationKey:
        """All that this subject's outputs depend on."""
        return EvaluationKey(
            method=self.method.kind,
            adaptation=self.adaptation,
            backbone=self.backbone.name,
            backbone_weights=self.backbone.identity.weights_fingerprint,
            dtype=self.backbone.precision,
            task=task.name,
            task_version=task.version,
            data=task.fingerprint(split),
            split=split,
            num_examples=num_examples,
            decoding=decoding,
            over_labels=task.label_set is not None,
        )


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is measured of the outputs.

    Args:
        metrics: Names of metrics.
        resamples: Bootstrap draws for the intervals; 0 gives none.
        seed: Of those draws.
        likelihood: Whether the references' likelihood is measured, too.
        settings: What the constructors of some metrics take, by metric.
    """

    metrics: Sequence[str]
    resamples: int = 0
    seed: int = 0
    likelihood: bool = True
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation leaves behind.

    Args:
        folder: Where it lies.
        record: As in `metrics.json`.
        predictions: As in `predictions.jsonl`.
        was_there: Whether all of it had been there before.
    """

    folder: Path
    record: EvaluationRecord
    predictions: list[Prediction]
    was_there: bool = False


def evaluate(
    subject: Subject,
    task: Task,
    split: Split,
    decoding: Decoding,
    measures: Measures,
    *,
    num_examples: int | None,
    batch_size: int,
    out: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Evaluate, or go on with an evaluation, or find it finished.

    Args:
        subject: What is evaluated.
        task: Whose examples.
        split: Which of them.
        decoding: How text is decoded.
        measures: What is measured. A finished record keeps the measures that it was made with.
        num_examples: Inputs, evenly spread over the split; `None` is all.
        batch_size: Prompts decoded together.
        out: Where the evaluation's folder is made.
        on_progress: Told how many outputs there are, of how many.

    Raises:
        RunError: Another process is at work on it, or its record cannot be read.
        DataError: The split, or what an earlier process wrote, cannot be read.
    """
    examples = task.examples(split)
    rows = sample(examples, num_examples)
    question = subject.question(task, split, len(rows), decoding)
    folder = out / question.folder_name
    if (folder / RECORD_FILE).is_file():
        record = read_evaluation_record(folder / RECORD_FILE)
        return Evaluation(folder, record, read_predictions(folder / PREDICTIONS_FILE), was_there=True)
    started = time.monotonic()
    with UnfinishedPredictions(folder / UNFINISHED_FILE) as unfinished:
        known = {prediction.id: prediction.hypothesis for prediction in _known(folder, unfinished)}
        num_done = len(known)
        on_progress(num_done, len(rows))

        def keep(batch: list[Prediction]) -> None:
            nonlocal num_done
            unfinished.add(batch)
            num_done += len(batch)
            on_progress(num_done, len(rows))

        predictions = _decoded(subject, task, rows, decoding, batch_size, known, keep)
        write_predictions(folder / PREDICTIONS_FILE, predictions)
        seconds = time.monotonic() - started if len(known) < len(rows) else 0.0
        likelihoods = _likelihood(subject, rows, batch_size) if measures.likelihood else {}
        scores = scores_of(
            predictions,
            measures.metrics,
            resamples=measures.resamples,
            seed=measures.seed,
            settings=measures.settings,
        )
        if measures.likelihood and not likelihoods:
            scores.unfit.update(dict.fromkeys(INFOS, "no reference fits the backbone's positions uncut"))
        record = _record(question, scores, likelihoods, len(examples), seconds)
        write_evaluation_record(folder / RECORD_FILE, record)
        unfinished.remove()
    return Evaluation(folder, record, predictions)


def _known(folder: Path, unfinished: UnfinishedPredictions) -> list[Prediction]:
    """What is there already: everything, from a training's end, or what a killed evaluation had come to."""
    finished = folder / PREDICTIONS_FILE
    return read_predictions(finished) if finished.is_file() else unfinished.read()


def _record(
    question: EvaluationKey, scores: Scores, likelihoods: Mapping[str, float], num_in_split: int, seconds: float
) -> EvaluationRecord:
    name = SPLIT_NAMES[question.split]  # type: ignore[index]
    values, infos = {**likelihoods, **scores.values}, {**INFOS, **scores.infos}
    return EvaluationRecord(
        question=question,
        num_in_split=num_in_split,
        metrics={f"{name}/{metric}": value for metric, value in values.items()},
        intervals={f"{name}/{metric}": ends for metric, ends in scores.intervals.items()},
        metric_info={f"{name}/{metric}": infos[metric] for metric in values},
        missing=scores.absent,
        decode_s=seconds,
        environment=environment(),
    )


def _decoded(
    subject: Subject,
    task: Task,
    rows: Rows,
    decoding: Decoding,
    batch_size: int,
    known: Mapping[str, str],
    keep: Callable[[list[Prediction]], None],
) -> list[Prediction]:
    return decode(
        subject.backbone,
        subject.method,
        rows,
        subject.prompter,
        decoding,
        batch_size=batch_size,
        positions_left_free=subject.method.position_offset,
        labels=task.label_set,
        known=known,
        on_batch=keep,
    )


def _likelihood(subject: Subject, rows: Rows, batch_size: int) -> dict[str, float]:
    return likelihood(
        subject.backbone,
        subject.method,
        rows,
        subject.prompter,
        batch_size=batch_size,
        positions_left_free=subject.method.position_offset,
    )
