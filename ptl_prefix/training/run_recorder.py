"""Gathers the facts of a run and writes its record, however the run ends.

In: losses, scores and counts while the run proceeds. Out: `record.json` and the event of the end.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from ptl_prefix.artifacts import input_fingerprints
from ptl_prefix.artifacts.atomic import release_space, reserve_space
from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.fingerprint import environment
from ptl_prefix.artifacts.metric_key import split_group, with_group
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.rebuilt_record import read_losses, read_selection
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import (
    Cost,
    MetricInfo,
    Parameters,
    Ranking,
    RunRecord,
    Selection,
    Status,
    write_record,
)
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.data.task import Split
from ptl_prefix.errors import RunError
from ptl_prefix.evaluation.evaluate import SPLIT_NAMES
from ptl_prefix.evaluation.scoring import score
from ptl_prefix.tracking.disk_sink import DiskSink
from ptl_prefix.tracking.events import EventStream, RunFacts
from ptl_prefix.training.meter import Meter, peak_memory_bytes
from ptl_prefix.training.plan import Plan

LOSS_INFO = MetricInfo(
    scale="nats per target token", direction="minimize", version="1", library=f"torch {torch.__version__}"
)
"""Meaning of `val/loss`: the sum over the split's target tokens, end tokens included, divided by their number."""
TEACHER_LOSS_INFO = replace(LOSS_INFO, scale="nats per target token, to the teacher")
"""Its meaning where a teacher is matched: the cross-entropy to the teacher's most likely tokens."""


_MAX_ERROR_CHARACTERS = 2000
_RESERVED_BYTES = 2**16
"""Space for a record besides its config."""


class RunRecorder:
    """Gathers the facts of a run and writes them when the run ends.

    Args:
        plan: Plan of the run.
        folder: Run folder.
        events: Event stream of the run.
        meter: Counts seconds and tokens of training.
        writes: Whether to write `record.json`: only rank 0 does.
    """

    def __init__(
        self, plan: Plan, folder: RunFolder, events: EventStream, meter: Meter, *, writes: bool = True
    ) -> None:
        self._plan, self._folder, self._events, self._meter = plan, folder, events, meter
        self._writes = writes
        self.metrics: dict[str, float] = {}
        self._metric_info: dict[str, MetricInfo] = {}
        self._non_finite: dict[str, str] = {}
        self._selection: Selection | None = None
        self._parameters = Parameters(trained=0, stored=0, backbone=0)
        self._device = torch.device("cpu")
        self.learning_rate: float | None = None
        """The learning rate that followed from the target tokens of a step, if it did."""
        self.ranking: Ranking | None = None
        """The subset of the validation split that ranks the checkpoints, if one does."""
        self.has_begun = False
        """Whether the run writes to its folder; before, an error leaves the folder as it was."""

    def begin(self, prepare: Callable[[], None]) -> None:
        """Reserve space for the record of a run that fails; then prepare the folder.

        Args:
            prepare: Makes the first changes in the folder. An error in it leaves no reserved space.

        Raises:
            StorageError: If the disk has no such space; nothing was changed.
        """
        if self._writes:
            reserve_space(self._folder.reserve, _RESERVED_BYTES + 4 * len(json.dumps(dict(self._plan.config))))
        try:
            prepare()
        except BaseException:
            release_space(self._folder.reserve)
            raise
        self.has_begun = True

    def log_start(self) -> None:
        """Log the facts from which the record can be rebuilt if the run is killed."""
        self._events.write(
            "begun",
            step=0,
            task_version=self._plan.task.version,
            decoding=asdict(self._plan.decoding),
            metric_info=dict.fromkeys(("val/loss_before", "val/loss_start", "val/loss"), asdict(self._loss_info)),
            environment=environment(),
        )

    def log_inputs(self, fingerprints: Mapping[str, str], *, step: int, accepted: Sequence[str] = ()) -> None:
        """Log the fingerprints of the run's inputs, and which changes of them the user accepted."""
        self._events.write(
            input_fingerprints.EVENT, step=step, fingerprints=dict(fingerprints), accepted=list(accepted)
        )

    def add_loss(self, name: str, nats: float) -> None:
        """Add a loss in nats per target token to the metrics."""
        self._add(name, nats, self._loss_info)

    @property
    def _loss_info(self) -> MetricInfo:
        return TEACHER_LOSS_INFO if self._plan.task.has_teacher else LOSS_INFO

    def add_logged_loss(self, name: str) -> None:
        """Add a loss that was measured before the run was resumed, and is in its log."""
        if (nats := read_losses(self._logged_events("stopped")).get(name)) is not None:
            self.add_loss(name, nats)

    def add_retention(self, name: str, nats: float, info: MetricInfo) -> None:
        """Add the loss on text that is not the task's to the metrics."""
        self._add(name, nats, info)

    def add_selection(self, selection: Selection, info: MetricInfo) -> None:
        """Add the choice of the best checkpoint, and its value to the metrics."""
        self._selection = selection
        if selection.value is not None:
            self._add(selection.metric, selection.value, info)

    def add_scores(self, split: Split, predictions: list[Prediction], suffix: str = "") -> dict[str, str]:
        """Score predictions by the task's metrics, and add `<split>/<metric>` and `<split>/<metric>/<group>`.

        Returns:
            The reason for each metric that was skipped.
        """
        scores = score(predictions, self._plan.task.metrics)
        for name, value in scores.values.items():
            metric, group = split_group(name)
            key = with_group(f"{SPLIT_NAMES[split]}/{metric}{suffix}", group)
            self._add(key, value, scores.infos[name])
        return scores.skipped

    def _add(self, name: str, value: float, info: MetricInfo) -> None:
        """Add a metric; one that is not finite, which neither a record nor a bundle can hold, is only named."""
        if math.isfinite(value):
            self.metrics[name], self._metric_info[name] = value, info
        else:
            self._non_finite[name] = str(value)

    def count_parameters(self, backbone: Backbone) -> Parameters:
        """Count the parameters; the method must be attached."""
        method = self._plan.method
        self._device = backbone.device
        self._parameters = Parameters(
            trained=method.num_trainable, stored=method.num_stored, backbone=backbone.num_parameters
        )
        return self._parameters

    def finish(self, status: Status, error: str | None = None) -> RunRecord:
        """Write the record of the run, which ends with this status.

        A metric that is not finite is left out of the record and named in the last event.

        Args:
            status: End of the run.
            error: First error of a failed run.

        Raises:
            RunError: If the folder is gone, or the log of a finished run cannot be read.
            StorageError: If the disk does not take the record.
        """
        if self._writes and not self._folder.path.is_dir():  # writing would make it again, without its other files
            raise RunError(f"The record of a run must be in its folder, but {self._folder.path} is gone.")
        events = self._logged_events(status)
        if status != "finished":
            for name, nats in read_losses(events).items():
                self.add_loss(name, nats)
            self._selection = read_selection(events, self._plan.config)
        record = self._record(status, error, events)
        if self._writes:
            release_space(self._folder.reserve)
            write_record(self._folder.record, record)
        last = {**self.metrics, **({"non_finite": self._non_finite} if self._non_finite else {})}
        self._events.write(status, step=self._meter.steps, **last)
        return record

    def record_failure(self, error: Exception) -> list[str]:
        """Log an error and write the record of the failed run, as far as its folder and disk still allow that.

        Args:
            error: First error, the cause of the end.

        Returns:
            A sentence for each part that could not be written.
        """
        release_space(self._folder.reserve)
        cause = f"{type(error).__name__}: {error}"
        parts: dict[str, Callable[[], object]] = {
            "log": lambda: self._events.write("error", step=self._meter.steps, error=cause),
            "record": lambda: self.finish("failed", cause),
        }
        problems = []
        for name, write in parts.items():
            try:
                write()
            except Exception as another:
                problems.append(f"The {name} of this failed run could not be written: {another}")
        return problems

    def _logged_events(self, status: Status) -> list[dict[str, Any]]:
        """The events so far; of a run that does not finish well, none if its log cannot be read."""
        try:
            return read_events(self._folder.events)
        except RunError:
            if status == "finished" and self._writes:
                raise
            return []

    def _record(self, status: Status, error: str | None, events: Sequence[Mapping[str, Any]]) -> RunRecord:
        plan, meter = self._plan, self._meter
        return RunRecord(
            run_id=plan.run_id,
            status=status,
            task=plan.task.name,
            task_version=plan.task.version,
            backbone=plan.backbone.name,
            method=plan.method.name,
            seed=plan.seed,
            config=dict(plan.config),
            study=plan.config.get("study"),
            trial=plan.config.get("trial"),
            budget={"steps": meter.planned_steps} if meter.planned_steps else None,
            parameters=self._parameters,
            cost=Cost(
                train_s=meter.train_s,
                steps=meter.steps,
                skipped_steps=meter.skipped_steps,
                tokens=meter.num_tokens,
                tokens_per_s=meter.tokens_per_s,
                peak_memory_bytes=peak_memory_bytes(self._device),
            ),
            decoding=plan.decoding,
            metrics=self.metrics,
            metric_info=self._metric_info,
            environment=environment(),
            error=None if error is None else error.encode("utf-8", "backslashreplace").decode()[:_MAX_ERROR_CHARACTERS],
            fingerprints=input_fingerprints.known_fingerprints(events) or {},
            accepted_changes=input_fingerprints.accepted_changes(events),
            selection=self._selection,
            ranking=self.ranking,
            learning_rate=self.learning_rate,
        )


def record_killed_run(plan: Plan, folder: RunFolder, reason: str) -> None:
    """Write the record of a run whose rank 0 was killed and could not write it.

    Args:
        plan: Plan of the run.
        folder: Run folder.
        reason: Sentence for the event log.
    """
    with folder.held():
        events = EventStream(DiskSink())
        events.open(
            RunFacts(
                run_id=plan.run_id,
                folder=folder,
                config=plan.config,
                resumed_step=None,
                notify=lambda _: None,
                request_stop=lambda: None,
            )
        )
        meter = Meter(events, log_every_n_steps=1)
        meter.steps = max((event["step"] for event in read_events(folder.events)), default=0)
        events.write("error", step=meter.steps, error=reason)
        RunRecorder(plan, folder, events, meter).finish("failed", reason)
        events.close(1)
