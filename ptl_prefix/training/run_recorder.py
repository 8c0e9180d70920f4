"""Gathers the facts of a run and writes its record, however the run ends.

In: losses, scores and counts while the run proceeds. Out: `record.json` and the event of the end.
"""

from dataclasses import asdict

import torch

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.fingerprint import environment
from ptl_prefix.artifacts.metric_key import split_group, with_group
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.rebuilt_record import read_losses
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import Cost, MetricInfo, Parameters, RunRecord, Status, write_record
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.data.task import Split
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
        self._parameters = Parameters(trained=0, stored=0, backbone=0)
        self._device = torch.device("cpu")

    def log_start(self) -> None:
        """Log the facts from which the record can be rebuilt if the run is killed."""
        self._events.write(
            "begun",
            step=0,
            task_version=self._plan.task.version,
            decoding=asdict(self._plan.decoding),
            metric_info=dict.fromkeys(("val/loss_before", "val/loss"), asdict(LOSS_INFO)),
            environment=environment(),
        )

    def add_loss(self, name: str, nats: float) -> None:
        """Add a loss in nats per target token to the metrics."""
        self.metrics[name], self._metric_info[name] = nats, LOSS_INFO

    def add_scores(self, split: Split, predictions: list[Prediction], suffix: str = "") -> dict[str, str]:
        """Score predictions by the task's metrics, and add `<split>/<metric>` and `<split>/<metric>/<group>`.

        Returns:
            The reason for each metric that was skipped.
        """
        scores = score(predictions, self._plan.task.metrics)
        for name, value in scores.values.items():
            metric, group = split_group(name)
            key = with_group(f"{SPLIT_NAMES[split]}/{metric}{suffix}", group)
            self.metrics[key], self._metric_info[key] = value, scores.infos[name]
        return scores.skipped

    def count_parameters(self, backbone: Backbone) -> Parameters:
        """Count the parameters; the method must be attached."""
        method = self._plan.method
        self._device = backbone.device
        self._parameters = Parameters(
            trained=method.num_trainable, stored=method.num_stored, backbone=backbone.num_parameters
        )
        return self._parameters

    def finish(self, status: Status) -> RunRecord:
        """Write the record of the run, which ends with this status."""
        plan, meter = self._plan, self._meter
        if status != "finished":
            for name, nats in read_losses(read_events(self._folder.events)).items():
                self.add_loss(name, nats)
        record = RunRecord(
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
        )
        if self._writes:
            write_record(self._folder.record, record)
        self._events.write(status, step=meter.steps, **self.metrics)
        return record


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
        RunRecorder(plan, folder, events, meter).finish("failed")
        events.close(1)
