"""What a run writes while it learns: a few validation sources, always the same ones, decoded at every validation.

In: the run's material. Out: `samples` events. Decoding is greedy, so that neither it nor its cost hangs on how the run
decodes at its end; nothing is drawn, and the training around it stays the same to the last bit.
"""

import dataclasses

import pytorch_lightning as pl

from ptl_prefix.evaluation.decode import DecodingJob, decode
from ptl_prefix.evaluation.evaluate import sample
from ptl_prefix.tracking.events import EventStream
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.run_inputs import RunInputs

_MOST_NEW_TOKENS = 64
"""A look at the text must stay cheap beside the training."""


class Samples(pl.Callback):
    """Decodes some of the validation split after each validation.

    Args:
        plan: What is trained; its tracking says how many.
        material: What it is trained on.
        events: Takes `samples` events.
    """

    def __init__(self, plan: Plan, material: RunInputs, events: EventStream) -> None:
        self._plan, self._material, self._events = plan, material, events
        self._rows = sample(plan.task.examples("validation"), plan.tracking.num_samples)
        self._decoding = dataclasses.replace(
            plan.decoding,
            num_beams=1,
            do_sample=False,
            max_new_tokens=min(plan.decoding.max_new_tokens, _MOST_NEW_TOKENS),
            min_new_tokens=0,
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what is written now."""
        plan, backbone = self._plan, self._material.backbone
        written = decode(
            DecodingJob(
                backbone=backbone,
                method=plan.method,
                prompter=self._material.prompter,
                rows=self._rows,
                decoding=self._decoding,
                batch_size=plan.batches.eval_batch_size,
                reserved_positions=plan.method.reserved_positions(backbone),
                labels=plan.task.label_set,
            )
        )
        samples = [
            {"source": one.source, "reference": one.references[0], "hypothesis": one.hypothesis} for one in written
        ]
        self._events.write("samples", step=trainer.global_step, samples=samples)
