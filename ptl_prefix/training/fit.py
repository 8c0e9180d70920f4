"""One training, from a plan to a run folder with a record and a bundle.

In: a `Plan` and a folder. Out: `config.yaml`, `events.jsonl`, `checkpoints/`, `bundle/` and `record.json` in that
folder, and `model/` where the whole backbone was trained. Stopped or killed at any moment, the same call with `resume`
goes on from the last checkpoint to the same numbers.
"""

import dataclasses
import signal
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.artifacts.evaluation_record import PREDICTIONS_FILE
from ptl_prefix.artifacts.event_log import drop_events_after
from ptl_prefix.artifacts.predictions import Prediction, write_predictions
from ptl_prefix.artifacts.run_config import write_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import RunRecord
from ptl_prefix.errors import RankError
from ptl_prefix.evaluation.decode import decode
from ptl_prefix.evaluation.evaluate import Subject
from ptl_prefix.evaluation.loss import mean_loss
from ptl_prefix.methods.method import Method, NoAdaptation
from ptl_prefix.tracking.disk_sink import DiskSink
from ptl_prefix.tracking.events import EventStream, NoSink, RunFacts
from ptl_prefix.training.checkpoints import Checkpoints
from ptl_prefix.training.export import export_bundle, export_merged, load_trained_state
from ptl_prefix.training.loop import Loop
from ptl_prefix.training.material import Material, load_material
from ptl_prefix.training.meter import Meter
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.ranks import ONE_RANK, Ranks, hearing_of_gone_ranks
from ptl_prefix.training.record import Ledger
from ptl_prefix.training.stopping import RunStopped, StopSignals


@dataclass(frozen=True)
class Outcome:
    """What a training leaves behind for whoever called it.

    Args:
        record: As in `record.json`.
        bare: Test outputs of the bare backbone; empty if they were not wanted.
        adapted: Test outputs of the best checkpoint, for the same inputs.
        num_in_split: Inputs that the split has, of which those are a sample.
        signal: The signal that stopped the run, if one did; there are no outputs then.
    """

    record: RunRecord
    bare: list[Prediction]
    adapted: list[Prediction]
    num_in_split: int = 0
    signal: str | None = None


def train(
    plan: Plan, folder: RunFolder, *, resume: bool = False, console: Console | None = None, ranks: Ranks = ONE_RANK
) -> Outcome:
    """Run a training, or go on with one. Of several ranks each calls this, and the first writes to the folder.

    Args:
        plan: What is trained.
        folder: The run's folder.
        resume: Go on from `checkpoints/last.ckpt`; without one, start from the beginning.
        console: Where progress is shown.
        ranks: Who trains together.

    Raises:
        NonFiniteLossError: When a loss is not a number; the last good checkpoint is kept.
        RunError: When another process is at work in the folder, or the ranks have different configs.
        RankError: When another rank is gone.
    """
    ranks.must_agree(plan.config)
    with folder.held() if ranks.is_first else nullcontext():
        return _train(plan, folder, resume=resume, console=console, ranks=ranks)


def _train(plan: Plan, folder: RunFolder, *, resume: bool, console: Console | None, ranks: Ranks) -> Outcome:
    resumed_step = ranks.of_first(lambda: _prepare(plan, folder, resume=resume))
    console = console if console and ranks.is_first else Console(stderr=True, quiet=not ranks.is_first)
    signals = StopSignals(console, ranks)
    facts = _facts(plan, folder, resumed_step, console, signals)
    events = _events(plan, facts, ranks)
    meter = Meter(events, log_every_n_steps=int(plan.trainer.get("log_every_n_steps") or 50), ranks=ranks)
    ledger = Ledger(plan, folder, events, meter, writes=ranks.is_first)
    exit_code = 1
    try:
        with signals, hearing_of_gone_ranks():
            events.open(facts)
            if resumed_step is None:
                ledger.begin()
            material = load_material(plan, ranks)
            session = _Session(plan, folder, events, console, material, ledger, meter, signals, ranks)
            outcome = session.run(resumed_step)
        exit_code = 0
        return outcome
    except RunStopped as stop:
        exit_code = 128 + signal.Signals[stop.signal_name]
        return Outcome(ledger.close("stopped"), [], [], signal=stop.signal_name)
    except Exception as error:
        if isinstance(error, RankError) and signals.requested:  # the others have heard the signal first, and are gone
            exit_code = 128 + signal.Signals[signals.requested]
            return Outcome(ledger.close("stopped"), [], [], signal=signals.requested)
        events.write("error", step=meter.steps, error=f"{type(error).__name__}: {error}")
        ledger.close("failed")
        raise
    finally:
        events.close(exit_code)


def _events(plan: Plan, facts: RunFacts, ranks: Ranks) -> EventStream:
    """Where events go; those of later ranks go nowhere, as the first one's are those of all."""
    if not ranks.is_first:
        return EventStream(NoSink())
    return EventStream(DiskSink(), plan.tracking.sinks(), facts.say, plan.tracking.patience_s)


def _facts(plan: Plan, folder: RunFolder, resumed_step: int | None, console: Console, signals: StopSignals) -> RunFacts:
    """What the run's sinks know of it."""
    return RunFacts(
        run_id=plan.run_id,
        folder=folder,
        config=plan.config,
        resumed_step=resumed_step,
        say=lambda what: console.print(what, highlight=False, soft_wrap=True) if plan.shows_progress else None,
        request_stop=signals.request_stop,
    )


def _prepare(plan: Plan, folder: RunFolder, *, resume: bool) -> int | None:
    """A folder with a config, and a log that says nothing of what is still to come.

    Returns:
        The step that the run goes on from; `None` if it begins.
    """
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    folder.record.unlink(missing_ok=True)  # how a run ended that goes on is no longer true
    if resume and folder.last.exists():
        step = int(torch.load(folder.last, map_location="cpu", weights_only=True)["global_step"])
        drop_events_after(folder.events, step)
        return step
    write_config(folder, plan.config)
    drop_events_after(folder.events, -1)
    return None


class _Session:
    """One training while it runs: the objects that its steps share."""

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        events: EventStream,
        console: Console,
        material: Material,
        ledger: Ledger,
        meter: Meter,
        signals: StopSignals,
        ranks: Ranks,
    ) -> None:
        self.plan, self.folder, self.events, self.console = plan, folder, events, console
        self.material, self.ledger, self.meter, self.signals = material, ledger, meter, signals
        self.backbone, self.ranks = material.backbone, ranks
        self.absent_metrics: dict[str, str] = {}

    def run(self, resumed_step: int | None) -> Outcome:
        """Measure the bare backbone, train, then evaluate and export the best checkpoint."""
        bare = self._measure_bare()
        if resumed_step is None:
            self._log_material()
        pl.seed_everything(self.plan.seed, verbose=False)
        self.plan.method.attach(self.backbone)
        try:
            self._report_start(resumed_step)
            loop = Loop(
                self.plan, self.folder, self.events, self.console, self.material, self.meter, self.signals, self.ranks
            )
            adapted = self._evaluate_best(loop.fit(resumes=resumed_step is not None))
            return Outcome(self.ledger.close("finished"), bare, adapted, self.material.num_in_decoded_split)
        finally:
            self.plan.method.detach()

    def _measure_bare(self) -> list[Prediction]:
        """What the backbone does without the method: the loss, and text if it is wanted."""
        self._say(f"measuring the bare {self.backbone.name} on {self.backbone.device}, {self.backbone.precision}")
        bare = NoAdaptation().attach(self.backbone)
        loss = mean_loss(self.backbone, bare, self.material.validation, add_up=self.ranks.sum)
        self.ledger.note_loss("val/loss_before", loss)
        if not self.plan.evaluation.compare_bare:
            return []
        outputs = self._decode(bare)
        if self.ranks.is_first:
            self._note_scores(outputs, suffix="_before")
        return outputs

    def _log_material(self) -> None:
        """Log what a run finds before its first step; a resumed one has that in its log already."""
        for split, report in self.material.encoding.items():
            self.events.write("encoded", step=0, split=split, **dataclasses.asdict(report))
        self.events.write("bare", step=0, **self.ledger.metrics)

    def _report_start(self, resumed_step: int | None) -> None:
        """Say and log what there is to train, and what is worth knowing of its start."""
        parameters = self.ledger.note_parameters(self.backbone)
        counts = {f"parameters_{name}": number for name, number in dataclasses.asdict(parameters).items()}
        counts["planned_steps"] = self.plan.num_steps(len(self.material.train))
        is_new = resumed_step is None
        self.events.write("attached" if is_new else "resumed", step=resumed_step or 0, **counts, **self._of_ranks())
        for note in self.plan.method.notes:
            self._say(f"the {self.plan.method.name} {note}")
            if is_new:
                self.events.write("note", step=0, note=note)

    def _of_ranks(self) -> dict[str, int]:
        """How many train together and what each of them sends in a step, said and for the log."""
        ranks, plan = self.ranks, self.plan
        if (ranks.number, plan.num_ranks) == (1, 1):
            return {}
        num_bytes = ranks.gradient_bytes(plan.method.trained_parameters().values())
        self._say(f"ranks: {ranks.number}; in a step each sends {num_bytes:,} bytes of gradients")
        if ranks.number != plan.num_ranks:
            self._say(
                f"the run was begun for {plan.num_ranks}: the rows of each step stay the same, a rank has more or "
                "fewer of them, and dropout draws other numbers"
            )
        facts = {"num_ranks": ranks.number, "synchronised_bytes_per_step": num_bytes}
        if self.backbone.is_sharded:
            facts["backbone_bytes_per_rank"] = ranks.largest(self.backbone.num_bytes_here)
            self._say(
                f"of the backbone's {self.backbone.num_bytes:,} bytes each holds {facts['backbone_bytes_per_rank']:,}"
            )
        return facts

    def _evaluate_best(self, checkpoints: Checkpoints) -> list[Prediction]:
        """Test the checkpoint with the least validation loss, and export it."""
        plan = self.plan
        self._say(f"decoding with the best checkpoint, of step {checkpoints.best_step}")
        if self.ranks.is_first:
            load_trained_state(plan.method, self.folder.best)
        self.ranks.copy_first(plan.method.trained_parameters().values())
        plan.method.eval()
        self.ledger.note_loss("val/loss", checkpoints.best_loss)
        adapted = self._decode(plan.method)
        if self.ranks.is_first:
            self._note_scores(adapted)
            self._export(adapted)
        return adapted

    def _export(self, adapted: list[Prediction]) -> None:
        """Write the bundle, the outputs, and the model where all of it was trained."""
        plan = self.plan
        bundle = export_bundle(
            self.folder.bundle,
            backbone=self.backbone,
            method=plan.method,
            task=plan.task,
            prompter=self.material.prompter,
            decoding=plan.decoding,
            metrics=self.ledger.metrics,
        )
        self._keep(adapted, bundle)
        if plan.method.is_whole_model:
            export_merged(self.folder.model, backbone=self.backbone, method=plan.method, replace=True)

    def _keep(self, outputs: list[Prediction], bundle: Bundle) -> None:
        """Write what was decoded to where `ptl-prefix evaluate` will look for it."""
        plan = self.plan
        subject = Subject(
            backbone=self.backbone,
            method=plan.method,
            prompter=self.material.prompter,
            adaptation=bundle.manifest.tensors_sha256,
        )
        question = subject.question(plan.task, self.material.decoded_split, len(outputs), plan.decoding)
        write_predictions(self.folder.evaluation / question.folder_name / PREDICTIONS_FILE, outputs)

    def _note_scores(self, outputs: list[Prediction], suffix: str = "") -> None:
        """Score outputs, and say once which metrics the record will lack."""
        absent = self.ledger.note_scores(self.material.decoded_split, outputs, suffix)
        for name, reason in absent.items():
            if name not in self.absent_metrics:
                self._say(f"no {name}: {reason}")
        self.absent_metrics.update(absent)

    def _say(self, what: str) -> None:
        if self.plan.shows_progress:
            self.console.print(what, highlight=False)

    def _decode(self, method: Method) -> list[Prediction]:
        # Sharded layers compute for all ranks at once, and ranks with batches of their own would write texts of other
        # lengths: each decodes everything, and all come to the same.
        apart: Any = {} if self.backbone.is_sharded else {"share": self.ranks.share, "join": self.ranks.join}
        return decode(
            self.backbone,
            method,
            self.material.decoded_rows,
            self.material.prompter,
            self.plan.decoding,
            batch_size=self.plan.batches.eval_batch_size,
            positions_left_free=self.plan.method.positions_taken(self.backbone),
            labels=self.plan.task.label_set,
            **apart,
        )
