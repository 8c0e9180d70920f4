"""Evaluation of a split: decode it, score it, and write a record that never changes.

In: an `EvaluationJob`: a backbone with a method, and a task's split. Out: a folder whose name is a hash of everything
that the outputs depend on, with `predictions.jsonl` and `metrics.json`. After a kill, the same call resumes after the
last complete batch.
"""

import math
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
from ptl_prefix.artifacts.hub_address import is_hub_address
from ptl_prefix.artifacts.predictions import Prediction, read_predictions, write_predictions
from ptl_prefix.artifacts.remote.address import is_remote_address
from ptl_prefix.artifacts.unfinished_predictions import UnfinishedPredictions
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.task import Split, Task
from ptl_prefix.evaluation.decode import DecodingJob, Rows, decode
from ptl_prefix.evaluation.likelihood import INFOS, measure_likelihood
from ptl_prefix.evaluation.retention import (
    RETENTION,
    RetentionText,
    RetentionUnmeasurableError,
    measure_retention,
    retention_problems,
)
from ptl_prefix.evaluation.scoring import Scores, score
from ptl_prefix.methods.method import Method
from ptl_prefix.settings import settings_from

SPLIT_NAMES: Mapping[Split, str] = {"train": "train", "validation": "val", "test": "test"}
"""The name of each split in metric keys, such as `val/loss`."""


class EvaluationSettings:
    """Settings of the evaluation at the end of a training.

    Args:
        num_examples: Number of test inputs that are decoded, evenly spread over the split; `None` is all.
        compare_bare: Whether the bare backbone decodes them too.
        measure_start: Whether the validation loss is measured before the first step, too, as `val/loss_start`.
        retention: Whether the loss on text that is not the task's is measured, adapted and bare.
        retention_file: File of that text; `None` is the text of this package.
    """

    @settings_from("evaluation/default")
    def __init__(
        self,
        *,
        num_examples: Annotated[int, Ge(1)] | None,
        compare_bare: bool,
        measure_start: bool,
        retention: bool,
        retention_file: str | None,
    ) -> None:
        self.num_examples = num_examples
        self.compare_bare = compare_bare
        self.measure_start = measure_start
        self.retention = retention
        self.retention_file = retention_file

    def problems(self) -> list[str]:
        """A file for retention that cannot be read, or is not used."""
        return retention_problems(self.retention, self.retention_file, prefix="evaluation.")


@dataclass(frozen=True)
class Sample:
    """Rows of a split, evenly spread over it.

    Args:
        rows: The rows, as the task gives them.
        num_in_split: Number of examples in the split.
    """

    rows: list[Mapping[str, Any]]
    num_in_split: int


def sample(task: Task, split: Split, number: int | None, *, num_in_split: int | None = None) -> Sample:
    """Some rows of a split, the same ones in every run; only these are in memory.

    Args:
        task: Task of the examples.
        split: Split of the examples.
        number: Number of rows; `None`: all of them.
        num_in_split: Number of examples in the split; `None`: not known, so that the split is read twice.

    Raises:
        DataError: The split cannot be read.
    """
    if number is None:
        rows = list(task.rows_of(split))
        return Sample(rows, len(rows))
    count = sum(1 for _ in task.rows_of(split)) if num_in_split is None else num_in_split
    kept = min(number, count)
    places = {index * count // kept for index in range(kept)}
    return Sample([row for index, row in enumerate(task.rows_of(split)) if index in places], count)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model that is evaluated.

    Args:
        backbone: Frozen model.
        method: Method that is attached to it; `NoAdaptation` for the bare backbone.
        prompter: Encoder of the sources, as in training.
        adaptation: Hash of the bundle's tensors; `None` for the bare backbone.
        method_settings: Hash of the bundle's settings; `None` for the bare backbone.
        origin: Folder of the bundle, or its address on the hub with the commit, which the record keeps; `None` for the
            bare backbone.
    """

    backbone: Backbone
    method: Method
    prompter: Prompter
    adaptation: str | None
    method_settings: str | None = None
    origin: str | None = None

    def evaluation_key(
        self, task: Task, split: Split, num_examples: int, decoding: Decoding, *, batch_size: int
    ) -> EvaluationKey:
        """Everything that this subject's outputs on `split` depend on."""
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
            prompt=self.prompter.prompt_format,
            prompter=self.prompter.fingerprint,
            stop_ids=self.prompter.stop_ids,
            backbone_config=self.backbone.identity.config_fingerprint,
            method_settings=self.method_settings,
            batch_size=batch_size if decoding.do_sample else None,
        )


@dataclass(frozen=True, kw_only=True)
class Measures:
    """The measures of an evaluation.

    Args:
        metrics: Names of metrics.
        resamples: Number of bootstrap draws for the intervals; 0 computes none.
        seed: Seed of the bootstrap draws.
        likelihood: Whether the likelihood of the references is computed too.
        retention: Text that is not the task's, whose loss is computed too; `None` computes none.
        settings: Constructor arguments of some metrics, by metric.
    """

    metrics: Sequence[str]
    resamples: int = 0
    seed: int = 0
    likelihood: bool = True
    retention: RetentionText | None = None
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationJob:
    """One evaluation: a subject, its examples, its decoding and its measures.

    Args:
        subject: Model that is evaluated.
        task: Task of the examples.
        split: Split of the examples.
        decoding: Decoding settings.
        measures: Metrics to compute. A finished record keeps the measures that it was made with.
        num_examples: Number of inputs, evenly spread over the split; `None` is all.
        batch_size: Prompts that are decoded together.
    """

    subject: Subject
    task: Task
    split: Split
    decoding: Decoding
    measures: Measures
    num_examples: int | None
    batch_size: int

    def decoding_job(self, rows: Rows) -> DecodingJob:
        """The decoding of `rows` by this evaluation's subject."""
        return DecodingJob(
            backbone=self.subject.backbone,
            method=self.subject.method,
            prompter=self.subject.prompter,
            rows=rows,
            decoding=self.decoding,
            batch_size=self.batch_size,
            reserved_positions=self.subject.method.position_offset,
            labels=self.task.label_set,
        )


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Args:
        folder: Folder of the evaluation.
        record: Content of `metrics.json`.
        predictions: Content of `predictions.jsonl`.
        was_finished: Whether the folder held a finished evaluation, so that nothing was computed.
    """

    folder: Path
    record: EvaluationRecord
    predictions: list[Prediction]
    was_finished: bool = False


Progress = Callable[[int, int], None]
"""A callback that receives the number of finished outputs and the number of all."""


def evaluate(job: EvaluationJob, out: Path, *, on_progress: Progress = lambda done, total: None) -> Evaluation:
    """Run an evaluation, resume it, or return its finished record.

    Args:
        job: Subject, examples, decoding and measures.
        out: Folder in which the evaluation's own folder is made.
        on_progress: Callback for the number of finished outputs.

    Raises:
        RunError: Another process is working on this evaluation, or its record cannot be read.
        DataError: The split, or the predictions of an earlier process, cannot be read.
    """
    sampled = sample(job.task, job.split, job.num_examples)
    rows = sampled.rows
    key = job.subject.evaluation_key(job.task, job.split, len(rows), job.decoding, batch_size=job.batch_size)
    folder = out / key.folder_name
    if (folder / RECORD_FILE).is_file():
        record = read_evaluation_record(folder / RECORD_FILE)
        return Evaluation(folder, record, read_predictions(folder / PREDICTIONS_FILE), was_finished=True)
    with UnfinishedPredictions(folder / UNFINISHED_FILE) as unfinished:
        predictions, decode_s = _decode(job.decoding_job(rows), folder, unfinished, on_progress)
        likelihoods = _likelihoods(job, rows)
        record = _record(
            key, _scores(job.measures, predictions, likelihoods), likelihoods, sampled.num_in_split, decode_s
        )
        _add_retention(record, job)
        if is_hub_address(job.subject.origin) or is_remote_address(job.subject.origin):
            record.environment["bundle"] = job.subject.origin
        write_evaluation_record(folder / RECORD_FILE, record)
        unfinished.remove()
    return Evaluation(folder, record, predictions)


def _decode(
    job: DecodingJob, folder: Path, unfinished: UnfinishedPredictions, on_progress: Progress
) -> tuple[list[Prediction], float]:
    """The predictions of a job, written to `folder`, and the seconds of decoding."""
    started = time.monotonic()
    finished = {prediction.id: prediction.hypothesis for prediction in _finished(folder, unfinished)}
    num_done, num_rows = len(finished), len(job.rows)
    on_progress(num_done, num_rows)

    def keep(batch: list[Prediction]) -> None:
        nonlocal num_done
        unfinished.add(batch)
        num_done += len(batch)
        on_progress(num_done, num_rows)

    predictions = decode(job, finished=finished, on_batch=keep)
    write_predictions(folder / PREDICTIONS_FILE, predictions)
    return predictions, time.monotonic() - started if len(finished) < num_rows else 0.0


def _finished(folder: Path, unfinished: UnfinishedPredictions) -> list[Prediction]:
    """Predictions that exist: all of them, decoded at the end of a training, or those of a killed evaluation."""
    path = folder / PREDICTIONS_FILE
    return read_predictions(path) if path.is_file() else unfinished.read()


def _likelihoods(job: EvaluationJob, rows: Rows) -> dict[str, float]:
    if not job.measures.likelihood:
        return {}
    return measure_likelihood(
        job.subject.backbone,
        job.subject.method,
        rows,
        job.subject.prompter,
        batch_size=job.batch_size,
        reserved_positions=job.subject.method.position_offset,
    )


def _add_retention(record: EvaluationRecord, job: EvaluationJob) -> None:
    if (text := job.measures.retention) is None:
        return
    try:
        loss = measure_retention(job.subject.backbone, job.subject.method, text, batch_size=job.batch_size)
    except RetentionUnmeasurableError as error:
        record.skipped[RETENTION] = str(error)
        return
    if math.isfinite(loss):
        record.metrics[RETENTION], record.metric_info[RETENTION] = loss, text.info
    else:
        record.skipped[RETENTION] = f"it is {loss}"


def _scores(measures: Measures, predictions: list[Prediction], likelihoods: Mapping[str, float]) -> Scores:
    scores = score(
        predictions,
        measures.metrics,
        resamples=measures.resamples,
        seed=measures.seed,
        settings=measures.settings,
    )
    if measures.likelihood and not likelihoods:
        scores.inapplicable.update(dict.fromkeys(INFOS, "no reference fits the backbone's positions uncut"))
    return scores


def _record(
    key: EvaluationKey, scores: Scores, likelihoods: Mapping[str, float], num_in_split: int, decode_s: float
) -> EvaluationRecord:
    split = SPLIT_NAMES[key.split]  # type: ignore[index]
    values, infos = {**likelihoods, **scores.values}, {**INFOS, **scores.infos}
    return EvaluationRecord(
        key=key,
        num_in_split=num_in_split,
        metrics={f"{split}/{metric}": value for metric, value in values.items()},
        intervals={f"{split}/{metric}": ends for metric, ends in scores.intervals.items()},
        metric_info={f"{split}/{metric}": infos[metric] for metric in values},
        skipped=scores.skipped,
        decode_s=decode_s,
        environment=environment(),
    )
