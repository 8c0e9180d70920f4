"""What happens between a loaded backbone and a bundle: measure it bare, train, test the best checkpoint, export it.

In: a plan, what it needs loaded, and who is told. Out: an `Outcome`, and the bundle and outputs in the run's folder.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.artifacts.evaluation_record import PREDICTIONS_FILE
from ptl_prefix.artifacts.predictions import Prediction, write_predictions
from ptl_prefix.artifacts.run_record import RunRecord
from ptl_prefix.evaluation.decode import DecodingJob, decode
from ptl_prefix.evaluation.evaluate import Subject
from ptl_prefix.evaluation.loss import mean_loss
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.no_adaptation import NoAdaptation
from ptl_prefix.training.checkpoints import Checkpoints
from ptl_prefix.training.export import export_bundle, export_merged, load_trained_state
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.run_context import RunContext
from ptl_prefix.training.run_inputs import RunInputs
from ptl_prefix.training.run_recorder import Ledger
from ptl_prefix.training.trainer import Loop


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


class Session:
    """One training while it runs.

    Args:
        plan: What is trained.
        material: The loaded backbone and the encoded splits.
        ledger: Writes the record.
        context: What surrounds the training.
    """

    def __init__(self, plan: Plan, material: RunInputs, ledger: Ledger, context: RunContext) -> None:
        self.plan, self.material, self.ledger, self.context = plan, material, ledger, context
        self.backbone, self.ranks = material.backbone, context.ranks
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
            loop = Loop(self.plan, self.material, self.context)
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
            self.context.events.write("encoded", step=0, split=split, **dataclasses.asdict(report))
        self.context.events.write("bare", step=0, **self.ledger.metrics)

    def _report_start(self, resumed_step: int | None) -> None:
        """Say and log what there is to train, and what is worth knowing of its start."""
        parameters = self.ledger.note_parameters(self.backbone)
        counts = {f"parameters_{name}": number for name, number in dataclasses.asdict(parameters).items()}
        counts["planned_steps"] = self.plan.num_steps(len(self.material.train))
        is_new = resumed_step is None
        self.context.events.write(
            "attached" if is_new else "resumed", step=resumed_step or 0, **counts, **self._of_ranks()
        )
        for note in self.plan.method.notes:
            self._say(f"the {self.plan.method.name} {note}")
            if is_new:
                self.context.events.write("note", step=0, note=note)

    def _of_ranks(self) -> dict[str, int]:
        """How many train together and what each of them sends in a step, said and for the log."""
        ranks, plan = self.ranks, self.plan
        if (ranks.number, plan.num_ranks) == (1, 1):
            return {}
        num_bytes = ranks.gradient_bytes(plan.method.trainable_parameters().values())
        self._say(f"ranks: {ranks.number}; in a step each sends {num_bytes:,} bytes of gradients")
        if ranks.number != plan.num_ranks:
            self._say(
                f"the run was begun for {plan.num_ranks}: the rows of each step stay the same, a rank has more or "
                "fewer of them, and dropout draws other numbers"
            )
        facts = {"num_ranks": ranks.number, "synchronised_bytes_per_step": num_bytes}
        if self.backbone.is_sharded:
            facts["backbone_bytes_per_rank"] = ranks.largest(self.backbone.num_local_bytes)
            self._say(
                f"of the backbone's {self.backbone.num_bytes:,} bytes each holds {facts['backbone_bytes_per_rank']:,}"
            )
        return facts

    def _evaluate_best(self, checkpoints: Checkpoints) -> list[Prediction]:
        """Test the checkpoint with the least validation loss, and export it."""
        plan = self.plan
        self._say(f"decoding with the best checkpoint, of step {checkpoints.best_step}")
        if self.ranks.is_first:
            load_trained_state(plan.method, self.context.folder.best)
        self.ranks.copy_first(plan.method.trainable_parameters().values())
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
            self.context.folder.bundle,
            backbone=self.backbone,
            method=plan.method,
            task=plan.task,
            prompter=self.material.prompter,
            decoding=plan.decoding,
            metrics=self.ledger.metrics,
        )
        self._keep(adapted, bundle)
        if plan.method.is_whole_model:
            export_merged(self.context.folder.model, backbone=self.backbone, method=plan.method, replace=True)

    def _keep(self, outputs: list[Prediction], bundle: Bundle) -> None:
        """Write what was decoded to where `ptl-prefix evaluate` will look for it."""
        plan = self.plan
        subject = Subject(
            backbone=self.backbone,
            method=plan.method,
            prompter=self.material.prompter,
            adaptation=bundle.manifest.tensors_sha256,
        )
        key = subject.evaluation_key(plan.task, self.material.decoded_split, len(outputs), plan.decoding)
        write_predictions(self.context.folder.evaluation / key.folder_name / PREDICTIONS_FILE, outputs)

    def _note_scores(self, outputs: list[Prediction], suffix: str = "") -> None:
        """Score outputs, and say once which metrics the record will lack."""
        absent = self.ledger.note_scores(self.material.decoded_split, outputs, suffix)
        for name, reason in absent.items():
            if name not in self.absent_metrics:
                self._say(f"{name} is skipped: {reason}")
        self.absent_metrics.update(absent)

    def _say(self, what: str) -> None:
        if self.plan.shows_progress:
            self.context.console.print(what, highlight=False)

    def _decode(self, method: Method) -> list[Prediction]:
        # Sharded layers compute for all ranks at once, and ranks with batches of their own would write texts of other
        # lengths: each decodes everything, and all come to the same.
        apart: Any = {} if self.backbone.is_sharded else {"rank_share": self.ranks.share, "gather": self.ranks.join}
        job = DecodingJob(
            backbone=self.backbone,
            method=method,
            prompter=self.material.prompter,
            rows=self.material.decoded_rows,
            decoding=self.plan.decoding,
            batch_size=self.plan.batches.eval_batch_size,
            reserved_positions=self.plan.method.reserved_positions(self.backbone),
            labels=self.plan.task.label_set,
        )
        return decode(job, **apart)
