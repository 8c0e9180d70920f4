"""The stages of a training: evaluate the bare backbone, train, evaluate the best checkpoint, export it.

In: a plan, its loaded inputs and its context. Out: an `Outcome`, and the bundle and predictions in the run folder.
"""

import dataclasses
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import pytorch_lightning as pl

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.artifacts.evaluation_record import PREDICTIONS_FILE
from ptl_prefix.artifacts.manifest import settings_fingerprint
from ptl_prefix.artifacts.metric_key import bare_key
from ptl_prefix.artifacts.predictions import Prediction, write_predictions
from ptl_prefix.artifacts.routing_facts import RoutingFacts, StateFacts
from ptl_prefix.artifacts.run_record import RunRecord
from ptl_prefix.backbones.mean_states import mean_states
from ptl_prefix.data.routing import routing_facts, state_facts
from ptl_prefix.data.task import Split
from ptl_prefix.errors import DataError, NonFiniteLossError
from ptl_prefix.evaluation.evaluate import Subject
from ptl_prefix.evaluation.loss import mean_loss
from ptl_prefix.evaluation.retention import (
    RETENTION,
    RetentionUnmeasurableError,
    measure_retention,
    read_retention_text,
)
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.no_adaptation import NoAdaptation
from ptl_prefix.training.checkpoints import Checkpoints
from ptl_prefix.training.decoding import decode_rows
from ptl_prefix.training.distillation_rate import derived_lr, rate_notes
from ptl_prefix.training.export import export_bundle, export_merged, load_trained_state
from ptl_prefix.training.hidden_state_cache import cached_states
from ptl_prefix.training.pack import IN_PACK
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.plan_notes import plan_notes
from ptl_prefix.training.plan_problems import start_inputs
from ptl_prefix.training.rank_facts import rank_facts
from ptl_prefix.training.run_context import RunContext
from ptl_prefix.training.run_inputs import RunInputs
from ptl_prefix.training.run_recorder import RunRecorder
from ptl_prefix.training.selection import require_measurable
from ptl_prefix.training.stage_progress import Advance, stage_progress, tracked
from ptl_prefix.training.trainer import TrainingLoop


@dataclass(frozen=True)
class Outcome:
    """The result of a training.

    Args:
        record: Record of the run, as in `record.json`.
        bare: Predictions of the bare backbone; empty unless `evaluation.compare_bare` is set.
        adapted: Predictions of the best checkpoint for the same inputs.
        num_in_split: Number of inputs in the split, of which a sample was decoded.
        signal: Name of the signal that stopped the run, without predictions; `None` if the run finished.
        mirror_problem: Why the mirror in the object store is behind; `None` if it has everything, or there is none.
    """

    record: RunRecord
    bare: list[Prediction]
    adapted: list[Prediction]
    num_in_split: int = 0
    signal: str | None = None
    mirror_problem: str | None = None


class TrainingRun:
    """One training.

    Args:
        plan: Plan of the training.
        inputs: Loaded backbone and encoded splits.
        recorder: Writes the record.
        context: Run folder, event stream, console, signals and ranks.
    """

    def __init__(self, plan: Plan, inputs: RunInputs, recorder: RunRecorder, context: RunContext) -> None:
        self.plan, self.inputs, self.recorder, self.context = plan, inputs, recorder, context
        self.backbone, self.ranks = inputs.backbone, context.ranks
        self.skipped_metrics: dict[str, str] = {}
        settings = plan.evaluation
        self.retention_text = read_retention_text(settings.retention_file) if settings.retention else None

    def run(self, resumed_step: int | None) -> Outcome:
        """Evaluate the bare backbone, train, then evaluate and export the best checkpoint.

        Args:
            resumed_step: Step of the checkpoint to resume from; `None` starts from the beginning.
        """
        if self.plan.training.metric is not None:
            require_measurable(self.plan.task, self.plan.training.metric, self.inputs.selection_rows)
        self.recorder.learning_rate = derived_lr(self.plan, self.inputs.training_rows)
        for note in self._plan_notes():
            self._notify(note)
        bare = self._evaluate_bare()
        states = self._state_facts()
        if resumed_step is None:
            self._log_inputs()
        pl.seed_everything(self.plan.seed, verbose=False)
        self._prepare_start(resumed_step)
        self.plan.method.attach(self.backbone)
        try:
            self._log_start(resumed_step)
            if self.plan.evaluation.measure_start:
                self._measure_start(resumed_step)
            self.recorder.ranking = None if self.plan.trains_nothing else self.inputs.ranking_facts(loss=None)
            if self.plan.trains_nothing:
                adapted = self._evaluate_start(states)
            else:
                loop = TrainingLoop(self.plan, self._training_inputs(resumed_step), self.context)
                adapted = self._evaluate_best(loop.fit(resume=resumed_step is not None), states)
            if self.ranks.is_rank_zero:
                self.context.folder.require_in_place()
            return Outcome(self.recorder.finish("finished"), bare, adapted, self.inputs.num_in_decoded_split)
        finally:
            self.plan.method.detach()

    def _prepare_start(self, resumed_step: int | None) -> None:
        """Give the method what it starts from; a resumed run has its start in the checkpoint."""
        self.plan.method.provide_start_inputs(start_inputs(self.plan.task, self.inputs.training_rows))
        if resumed_step is not None:
            self.plan.method.skip_start()

    def _evaluate_bare(self) -> list[Prediction]:
        """The backbone without the method: its loss, and predictions if they are compared."""
        self._notify(f"evaluating the bare {self.backbone.name} on {self.backbone.device}, {self.backbone.precision}")
        bare = NoAdaptation().attach(self.backbone)
        loss = self._validation_loss(bare, "the bare backbone")
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"The loss of the bare {self.backbone.name} must be finite, but is {loss} on the validation split in "
                f"{str(self.backbone.dtype).removeprefix('torch.')}; set `backbone.dtype` to float32 or bfloat16, or "
                "check the weights."
            )
        self.recorder.add_loss("val/loss_before", loss)
        self._measure_retention(bare, bare_key(RETENTION))
        if not self.plan.evaluation.compare_bare:
            return []
        predictions = self._decode(bare)
        if self.ranks.is_rank_zero:
            self._add_scores(predictions, suffix="_before")
        return predictions

    def _measure_start(self, resumed_step: int | None) -> None:
        """The validation loss before the first step; a resumed run has it in its log."""
        if resumed_step is not None:
            self.recorder.add_logged_loss("val/loss_start")
            return
        loss = self._validation_loss(self.plan.method, f"the start of {self.plan.method.name}")
        self.recorder.add_loss("val/loss_start", loss)
        if math.isfinite(loss):
            self._notify(f"the {self.plan.method.name} starts at a validation loss of {loss:.3f}")
            self.context.events.write("start", step=0, **{"val/loss_start": loss})

    def _training_inputs(self, resumed_step: int | None) -> RunInputs:
        """The inputs of the training steps: with hidden states from the cache, if the plan has one."""
        if not self.plan.data.cache_hidden_states:
            return self.inputs
        cached = cached_states(self.plan, self.inputs, notify=self._notify, stage=self._stage)
        if resumed_step is None:
            facts = {"layer": cached.layer, "bytes": cached.num_bytes, "computed_s": cached.computed_s}
            self.context.events.write("hidden_states", step=0, **facts)
        return dataclasses.replace(self.inputs, train=cached.batches)

    def _validation_loss(self, method: Method, what: str) -> float:
        validation = self.inputs.validation
        with self._stage(f"measuring {what}, batch", len(validation)) as advance:
            return mean_loss(self.backbone, method, tracked(validation, advance), add_up=self.ranks.sum)

    def _measure_retention(self, method: Method, key: str) -> None:
        """The loss on text that is not the task's; every rank measures all of it, as there is little."""
        if (text := self.retention_text) is None:
            return
        try:
            nats = measure_retention(self.backbone, method, text, batch_size=self.plan.data.eval_batch_size)
        except RetentionUnmeasurableError as error:
            self._notify(f"{key} is skipped: {error}")
        else:
            self.recorder.add_retention(key, nats, text.info)

    def _state_facts(self) -> StateFacts | None:
        """Hidden states of the backbone for routing, while no method is attached; `None` unless they are asked for."""
        if self.plan.routing != "hidden_states" or not self.ranks.is_rank_zero:
            return None
        return state_facts(self.plan.task, partial(mean_states, self.backbone), num_examples=self._num_examples)

    @property
    def _num_examples(self) -> dict[Split, int]:
        return {split: report.num_examples for split, report in self.inputs.encoding.items()}

    def _log_inputs(self) -> None:
        """Log the encoded splits and the bare backbone's metrics; a resumed run has them in its log already."""
        for split, report in self.inputs.encoding.items():
            self.context.events.write("encoded", step=0, split=split, **dataclasses.asdict(report))
        self.context.events.write("bare", step=0, **self.recorder.metrics)

    def _log_start(self, resumed_step: int | None) -> None:
        """Log the numbers of parameters, steps and ranks, and the method's notes."""
        parameters = self.recorder.count_parameters(self.backbone)
        counts: dict[str, float] = {
            f"parameters_{name}": number for name, number in dataclasses.asdict(parameters).items()
        }
        counts["planned_steps"] = self.plan.num_steps(len(self.inputs.train))
        if self.inputs.selection_rows:
            counts["selection_examples"] = len(self.inputs.selection_rows)
        if self.recorder.learning_rate is not None:
            counts["learning_rate"] = self.recorder.learning_rate
        is_new = resumed_step is None
        self.context.events.write(
            "attached" if is_new else "resumed",
            step=resumed_step or 0,
            **counts,
            **rank_facts(self.plan, self.backbone, self.ranks, self._notify),
        )
        for note in self.plan.method.notes:
            self._notify(f"the {self.plan.method.name} {note}")
        if is_new:
            for note in (*self._plan_notes(), *self.plan.method.notes):
                self.context.events.write("note", step=0, note=note)

    def _plan_notes(self) -> list[str]:
        in_pack = [] if self.context.member is None else [IN_PACK]
        return [
            *plan_notes(self.plan, len(self.inputs.train)),
            *rate_notes(self.plan, self.inputs.training_rows),
            *in_pack,
        ]

    def _evaluate_start(self, states: StateFacts | None) -> list[Prediction]:
        """Evaluate the method as it starts, and export it: there is no checkpoint of a run without steps."""
        self.ranks.broadcast(self.plan.method.checkpoint_tensors().values())
        self.plan.method.eval()
        loss = self._validation_loss(self.plan.method, f"the start of {self.plan.method.name}")
        self.context.events.write("validation", step=0, **{"val/loss": loss, "train_s": 0.0, "tokens": 0})
        self.recorder.add_loss("val/loss", loss)
        return self._evaluate(states)

    def _evaluate_best(self, checkpoints: Checkpoints, states: StateFacts | None) -> list[Prediction]:
        """Evaluate the best checkpoint, and export it."""
        plan = self.plan
        self._notify(f"decoding with the best checkpoint, step {checkpoints.best_step}")
        if self.ranks.is_rank_zero:
            load_trained_state(plan.method, self.context.folder.best)
        self.ranks.broadcast(plan.method.checkpoint_tensors().values())
        plan.method.eval()
        if (ranking := self.inputs.ranking_facts(checkpoints.best_loss)) is None:
            self.recorder.add_loss("val/loss", checkpoints.best_loss)
        else:
            self.recorder.ranking = ranking
            self.recorder.add_loss("val/loss", self._validation_loss(plan.method, "the best checkpoint"))
        if checkpoints.metric is not None:
            self.recorder.add_selection(checkpoints.metric.selection, checkpoints.metric.info)
        return self._evaluate(states)

    def _evaluate(self, states: StateFacts | None) -> list[Prediction]:
        """Decode with the method, score its texts, and export it."""
        plan = self.plan
        adapted = self._decode(plan.method)
        if self.ranks.is_rank_zero:
            self._add_scores(adapted)
        self._measure_retention(plan.method, RETENTION)
        if self.ranks.is_rank_zero:
            self._export(adapted, states)
        return adapted

    def _export(self, adapted: list[Prediction], states: StateFacts | None) -> None:
        """Write the bundle, the predictions, and the model if the whole backbone was trained."""
        plan = self.plan
        bundle = export_bundle(
            self.context.folder.bundle,
            backbone=self.backbone,
            method=plan.method,
            task=plan.task,
            prompter=self.inputs.prompter,
            decoding=plan.decoding,
            metrics=self.recorder.metrics,
            routing=self._routing_facts(states),
        )
        self._write_predictions(adapted, bundle)
        if plan.method.is_whole_model:
            export_merged(self.context.folder.model, backbone=self.backbone, method=plan.method, replace=True)

    def _routing_facts(self, states: StateFacts | None) -> RoutingFacts | None:
        """What a server needs to recognise the task's texts; a trained method is not lost if they are gone."""
        if self.plan.routing == "none":
            return None
        try:
            return routing_facts(self.plan.task, num_examples=self._num_examples, states=states)
        except DataError as error:
            self._notify(f"the bundle can be served by its name only, as its inputs cannot be read again: {error}")
            return None

    def _write_predictions(self, predictions: list[Prediction], bundle: Bundle) -> None:
        """Write the predictions to the folder where `ptl-prefix evaluate` looks for them."""
        plan = self.plan
        subject = Subject(
            backbone=self.backbone,
            method=plan.method,
            prompter=self.inputs.prompter,
            adaptation=bundle.manifest.tensors_sha256,
            method_settings=settings_fingerprint(bundle.manifest),
        )
        key = subject.evaluation_key(
            plan.task,
            self.inputs.decoded_split,
            len(predictions),
            plan.decoding,
            batch_size=plan.data.eval_batch_size,
        )
        write_predictions(self.context.folder.evaluation / key.folder_name / PREDICTIONS_FILE, predictions)

    def _add_scores(self, predictions: list[Prediction], suffix: str = "") -> None:
        """Score predictions, and print each skipped metric once."""
        skipped = self.recorder.add_scores(self.inputs.decoded_split, predictions, suffix)
        for name, reason in skipped.items():
            if name not in self.skipped_metrics:
                self._notify(f"{name} is skipped: {reason}")
        self.skipped_metrics.update(skipped)

    def _notify(self, text: str) -> None:
        if self.plan.shows_progress:
            self.context.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _decode(self, method: Method) -> list[Prediction]:
        rows = self.inputs.decoded_rows
        with self._stage("decoding, input", len(rows)) as advance:
            return decode_rows(
                self.plan,
                self.inputs,
                self.ranks,
                method=method,
                rows=rows,
                on_batch=lambda predictions: advance(len(predictions)),
            )

    def _stage(self, label: str, total: int) -> AbstractContextManager[Advance]:
        member = self.context.member
        after = None if member is None else member.pause
        return stage_progress(self.context.console, label, total, shown=self.plan.shows_progress, after=after)
