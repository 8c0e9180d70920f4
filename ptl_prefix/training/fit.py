"""One training, from a plan to a run folder with a record and a bundle.

In: a `Plan` and a folder. Out: `config.yaml`, `events.jsonl`, `checkpoints/`, `bundle/` and `record.json` in that folder. Killed at
any moment, the same call with `resume` goes on from the last checkpoint to the same numbers.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import EarlyStopping
from rich.console import Console

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.event_log import EventLog, drop_events_after
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import MetricInfo, RunRecord, Status, write_record
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.batches import EvalBatches, TrainBatches
from ptl_prefix.data.encoding import encode_split
from ptl_prefix.evaluation.evaluate import decode, score
from ptl_prefix.evaluation.metric import Scored
from ptl_prefix.methods.method import Method, NoAdaptation
from ptl_prefix.tracking.events import EventStream
from ptl_prefix.training.checkpoints import Checkpoints, LastStepIsValidated, RandomState, RunStopped, StopSignals
from ptl_prefix.training.export import export_bundle, load_trained_state
from ptl_prefix.training.loss import mean_loss
from ptl_prefix.training.meter import Meter, ProgressBar
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.plan import Plan, text_room
from ptl_prefix.training.record import LOSS_INFO, record_of
from ptl_prefix.training.stream import BatchStream


@dataclass(frozen=True)
class Outcome:
    """What a training leaves behind for whoever called it.

    Args:
        record: As in `record.json`.
        bare: Test outputs of the bare backbone; empty if they were not wanted.
        adapted: Test outputs of the best checkpoint, for the same inputs; empty if the run was stopped.
        signal: The signal that stopped the run, if one did.
    """

    record: RunRecord
    bare: list[Scored]
    adapted: list[Scored]
    signal: str | None = None


def train(plan: Plan, folder: RunFolder, *, resume: bool = False, console: Console | None = None) -> Outcome:
    """Run a training, or go on with one.

    Args:
        plan: What is trained.
        folder: The run's folder.
        resume: Go on from `checkpoints/last.ckpt`; without one, start from the beginning.
        console: Where progress is shown.

    Raises:
        NonFiniteLossError: When a loss is not a number; the last good checkpoint is kept.
    """
    resumed_step = _prepare(plan, folder, resume=resume)
    events = EventStream([EventLog(folder.events)])
    session = _Session(plan, folder, events, console or Console(stderr=True), resumed_step)
    try:
        return session.run()
    except Exception as error:
        events.write("failed", step=session.step, error=f"{type(error).__name__}: {error}")
        session.finish("failed")
        raise
    finally:
        events.close()


def _prepare(plan: Plan, folder: RunFolder, *, resume: bool) -> int | None:
    """A folder with a config, and a log that says nothing of what is still to come.

    Returns:
        The step that the run goes on from; `None` if it begins.
    """
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    if resume and folder.last.exists():
        step = int(torch.load(folder.last, map_location="cpu", weights_only=True)["global_step"])
        drop_events_after(folder.events, step)
        return step
    write_atomically(folder.config, yaml.safe_dump(dict(plan.config), sort_keys=False, allow_unicode=True))
    drop_events_after(folder.events, -1)
    return None


class _Session:
    """One training while it runs: the objects its steps share."""

    def __init__(
        self, plan: Plan, folder: RunFolder, events: EventStream, console: Console, resumed_step: int | None
    ) -> None:
        self.plan, self.folder, self.events, self.console = plan, folder, events, console
        self.resumed_step = resumed_step
        self.metrics: dict[str, float] = {}
        self.metric_info: dict[str, MetricInfo] = {}
        self.bare: list[Scored] = []
        self.meter = Meter(events, log_every_n_steps=int(plan.trainer.get("log_every_n_steps") or 50))
        self.trainer: pl.Trainer | None = None
        self.backbone: Backbone | None = None

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return 0 if self.trainer is None else self.trainer.global_step

    def run(self) -> Outcome:
        """Load, measure the bare backbone, train, then evaluate and export the best checkpoint."""
        self._load()
        self._measure_bare()
        pl.seed_everything(self.plan.seed, verbose=False)
        self.plan.method.attach(self.backbone)
        try:
            stopped_by = self._fit()
            if stopped_by is not None:
                return Outcome(self.finish("stopped"), self.bare, [], stopped_by)
            adapted = self._evaluate_best()
            return Outcome(self.finish("finished"), self.bare, adapted)
        finally:
            self.plan.method.detach()

    def _load(self) -> None:
        """The backbone and the encoded splits, with room for what the method takes."""
        plan = self.plan
        self.backbone = plan.backbone.load()
        self.prompter = Prompter(self.backbone.tokenizer, plan.task.prompt)
        room = text_room(self.backbone, plan.method)
        self.train_split, self.validation_split = (
            encode_split(plan.task, split, self.prompter, max_tokens=room, settings=plan.batches)
            for split in ("train", "validation")
        )
        for split, encoded in (("train", self.train_split), ("validation", self.validation_split)):
            self._write_at_start("encoded", split=split, **dataclasses.asdict(encoded.report))
        self.validation = EvalBatches(
            self.validation_split,
            batch_size=plan.batches.eval_batch_size,
            pad_id=self.backbone.pad_id,
            num_rows=plan.num_validation_rows(len(self.validation_split)),
        )
        self.test_rows = plan.evaluation.sample(plan.task.examples("test"))

    def _measure_bare(self) -> None:
        """What the backbone does without the method: the loss, and text if it is wanted."""
        bare = NoAdaptation().attach(self.backbone)
        self.metrics["val/loss_before"] = mean_loss(self.backbone, bare, self.validation)
        self.metric_info["val/loss_before"] = self.metric_info["val/loss"] = LOSS_INFO
        if self.plan.evaluation.compare_bare:
            self.bare = self._decode(bare)
            self._score(self.bare, suffix="_before")
        bare.detach()
        self._write_at_start("bare", **self.metrics)

    def _fit(self) -> str | None:
        """Train; the name of the signal that stopped it, if one did."""
        plan = self.plan
        batches = TrainBatches(
            self.train_split, batch_size=plan.batches.batch_size, pad_id=self.backbone.pad_id, seed=plan.seed
        )
        self.num_steps = plan.num_steps(len(batches))
        interval = plan.val_check_interval(len(batches))
        module = AdaptationModule(self.backbone, plan.method, plan.optimization, total_steps=self.num_steps)
        self.checkpoints = Checkpoints(self.folder, val_check_interval=interval)
        self.trainer = pl.Trainer(**self._trainer_arguments(interval))
        if self.resumed_step is not None:
            self.events.write("resumed", step=self.resumed_step)
        with StopSignals(self._request_stop):
            try:
                self.trainer.fit(
                    module,
                    train_dataloaders=BatchStream(batches, self.num_steps * plan.accumulation),
                    val_dataloaders=self.validation,
                    ckpt_path=None if self.resumed_step is None else self.folder.last,
                    weights_only=True,
                )
            except RunStopped as stop:
                return str(stop)
        return None

    def _trainer_arguments(self, interval: int) -> dict[str, Any]:
        plan = self.plan
        callbacks: list[pl.Callback] = [
            RandomState(),
            LastStepIsValidated(),
            self.meter,
            ProgressBar(self.meter, self.console),
        ]
        if plan.optimization.early_stopping_patience is not None:
            callbacks.append(
                EarlyStopping(
                    "val/loss",
                    patience=plan.optimization.early_stopping_patience,
                    min_delta=plan.optimization.early_stopping_min_delta,
                )
            )
        return {
            **plan.trainer,
            "max_steps": self.num_steps,
            "max_epochs": -1,
            "min_epochs": 0,
            "val_check_interval": interval,
            "check_val_every_n_epoch": None,
            "callbacks": [*callbacks, self.checkpoints],  # what is saved is what the others have settled
            "default_root_dir": str(self.folder.path),
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_val_batches": 1.0,  # the batches are limited already, to rows from all over the split
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
        }

    def _write_at_start(self, kind: str, **values: Any) -> None:
        """Log what a run does once: a resumed one has it in its log already."""
        if self.resumed_step is None:
            self.events.write(kind, step=0, **values)

    def _request_stop(self, signal_name: str) -> None:
        self.checkpoints.stop_requested = signal_name
        self.console.print(f"{signal_name}: saving at the end of this step …")

    def _evaluate_best(self) -> list[Scored]:
        """Test the checkpoint with the least validation loss, and export it."""
        plan = self.plan
        load_trained_state(plan.method, self.folder.best)
        plan.method.eval()
        self.metrics["val/loss"] = self.checkpoints.best_loss
        adapted = self._decode(plan.method)
        self._score(adapted)
        export_bundle(
            self.folder.bundle,
            backbone=self.backbone,
            method=plan.method,
            task=plan.task,
            prompter=self.prompter,
            decoding=plan.decoding,
            metrics=self.metrics,
        )
        return adapted

    def _decode(self, method: Method) -> list[Scored]:
        return decode(
            self.backbone,
            method,
            self.test_rows,
            self.prompter,
            self.plan.decoding,
            batch_size=self.plan.batches.eval_batch_size,
            positions_left_free=self.plan.method.positions_taken(self.backbone),
        )

    def _score(self, outputs: list[Scored], suffix: str = "") -> None:
        values, info = score(outputs, self.plan.task.metrics)
        self.metrics.update({f"test/{name}{suffix}": value for name, value in values.items()})
        self.metric_info.update({f"test/{name}{suffix}": meaning for name, meaning in info.items()})

    def finish(self, status: Status) -> RunRecord:
        """Write the record of a run that ends so."""
        record = record_of(self.plan, status, self.backbone, self.meter, self.step, self.metrics, self.metric_info)
        write_record(self.folder.record, record)
        self.events.write(status, step=self.step, **self.metrics)
        return record
