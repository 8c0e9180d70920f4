"""The training loop: Lightning's trainer with the settings and callbacks of a run.

In: an attached method and the run's inputs. Out: the method is trained, and `Checkpoints` knows its best state. The
user's settings of the trainer are in the plan; the others are set here.
"""

from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from ptl_prefix.artifacts.jupyter_kernel import is_jupyter_kernel
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.training.batch_stream import BatchStream
from ptl_prefix.training.checkpoints import CheckpointFiles, Checkpoints, LastStepIsValidated, RandomState
from ptl_prefix.training.distillation_rate import derived_lr
from ptl_prefix.training.early_stopping import AnnouncedEarlyStopping
from ptl_prefix.training.lightning_warnings import quiet_lightning
from ptl_prefix.training.loss_scaling import LossScaling
from ptl_prefix.training.mirroring import MirrorAtValidation
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.notebook_progress import NotebookProgress
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.progress_bar import ProgressBar
from ptl_prefix.training.run_context import RunContext
from ptl_prefix.training.run_inputs import RunInputs
from ptl_prefix.training.samples import Samples
from ptl_prefix.training.selection import GeneratedMetric


class TrainingLoop:
    """Lightning's trainer with the callbacks of a run.

    Args:
        plan: Plan of the run.
        inputs: Inputs of the run.
        context: Run folder, event stream, console, signals and ranks.
    """

    def __init__(self, plan: Plan, inputs: RunInputs, context: RunContext) -> None:
        self._plan, self._inputs, self._context = plan, inputs, context
        self._ranks = context.ranks
        self._random_state = RandomState(context.ranks)

    def fit(self, *, resume: bool) -> Checkpoints:
        """Train the attached method from its start, or resume from `checkpoints/last.ckpt`.

        Returns:
            The callback that wrote the checkpoints and knows the best one.
        """
        plan, batches, backbone = self._plan, self._inputs.train, self._inputs.backbone
        num_steps = plan.num_steps(len(batches))
        interval = plan.val_check_interval(len(batches))
        self._ranks.broadcast(plan.method.checkpoint_tensors().values())
        lr = derived_lr(plan, self._inputs.training_rows)
        optimization = plan.optimization if lr is None else plan.optimization.with_lr(lr)
        member = self._context.member
        module = AdaptationModule(
            backbone,
            plan.method,
            optimization,
            total_steps=num_steps,
            ranks=self._ranks,
            compute_loss=target_loss if member is None else member.target_loss,
        )
        checkpoints = Checkpoints(
            self._context.folder,
            val_check_interval=interval,
            signals=self._context.signals,
            random_state=self._random_state,
            ranks=self._ranks,
            keep_last=plan.training.keep_last,
            metric=self._metric(),
        )
        device = backbone.device
        try:
            with quiet_lightning():
                pl.Trainer(**self._trainer_arguments(num_steps, interval), callbacks=self._callbacks(checkpoints)).fit(
                    module,
                    train_dataloaders=BatchStream(batches, num_steps * plan.accumulation),
                    val_dataloaders=self._inputs.ranking or self._inputs.validation,
                    ckpt_path=self._context.folder.last if resume else None,
                    weights_only=True,
                )
        finally:
            # Lightning moves the model to the CPU at the end, however it ends; other runs of a pack still use it.
            backbone.model.to(device)  # type: ignore[arg-type]
        plan.method.to(device)
        return checkpoints

    def _trainer_arguments(self, num_steps: int, interval: int) -> dict[str, Any]:
        device = self._inputs.backbone.device.type
        return {
            **self._plan.trainer,
            "accelerator": {"cuda": "gpu"}.get(device, device),
            # Each rank trains on its own device as if alone; `ranks.py` holds all communication.
            "devices": [self._ranks.local_rank] if device == "cuda" else 1,
            "num_nodes": 1,
            "strategy": "auto",
            "plugins": [
                LightningEnvironment(),
                CheckpointFiles(),
                *([LossScaling(device)] if self._plan.scales_loss else []),
            ],
            "precision": None if self._plan.scales_loss else self._plan.trainer.get("precision"),
            "max_steps": num_steps,
            "max_epochs": -1,
            "min_epochs": 0,
            "val_check_interval": interval,
            "check_val_every_n_epoch": None,
            "default_root_dir": str(self._context.folder.path),
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "limit_val_batches": 1.0,  # `RunInputs.validation` is limited already, to rows from all over the split
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            # Weights that sharded layers gather in inference mode cannot be used in a later backward pass.
            "inference_mode": not self._inputs.backbone.is_sharded,
        }

    def _metric(self) -> GeneratedMetric | None:
        """The metric of generated texts that chooses the best checkpoint; `None` for `val/loss`."""
        if self._plan.training.metric is None:
            return None
        return GeneratedMetric(self._plan, self._inputs, self._context.events, self._ranks, self._announce)

    def _callbacks(self, checkpoints: Checkpoints) -> list[pl.Callback]:
        """The callbacks in their order: checkpoints save the state that the others have left, and are then mirrored."""
        optimization = self._plan.optimization
        metric = checkpoints.metric
        callbacks = [self._context.signals, self._random_state, LastStepIsValidated(), self._context.meter]
        if metric is not None:
            callbacks.append(metric)
        if self._plan.shows_progress and self._ranks.is_rank_zero:
            callbacks.append(self._progress(metric))
        # With sharded layers no rank can decode without the others.
        if self._plan.tracking.num_samples and (self._ranks.is_rank_zero or self._inputs.backbone.is_sharded):
            callbacks.append(Samples(self._plan, self._inputs, self._context.events))
        if optimization.early_stopping_patience is not None:
            callbacks.append(
                AnnouncedEarlyStopping(
                    patience=optimization.early_stopping_patience,
                    min_delta=optimization.early_stopping_min_delta,
                    notify=self._announce,
                    metric=metric,
                )
            )
        return [*callbacks, checkpoints, MirrorAtValidation(self._context.mirror)]

    def _progress(self, metric: GeneratedMetric | None) -> pl.Callback:
        """The progress bar of a terminal or of a notebook."""
        if is_jupyter_kernel() and not self._context.console.quiet:
            return NotebookProgress(self._context.meter, metric)
        return ProgressBar(self._context.meter, self._context.console, metric)

    def _announce(self, sentence: str) -> None:
        """Print and log a sentence about the run, such as why it ends before its last step."""
        if self._plan.shows_progress:
            self._context.console.print(sentence, highlight=False, markup=False, soft_wrap=True)
        self._context.events.write("note", step=self._context.meter.steps, note=sentence)
