"""Samples of generated text during training: the same few validation sources, decoded at every validation.

In: the run's inputs. Out: `samples` events. Decoding is greedy and short, whatever `generation` is: it stays cheap and
draws no random numbers, so that training is bit for bit the same with and without samples.
"""

import dataclasses

import pytorch_lightning as pl

from ptl_prefix.artifacts.conversation import readable_source
from ptl_prefix.evaluation.decode import DecodingJob, decode
from ptl_prefix.evaluation.evaluate import sample
from ptl_prefix.tracking.events import EventStream
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.run_inputs import RunInputs

_MOST_NEW_TOKENS = 64
"""Samples must stay cheap compared with training."""


class Samples(pl.Callback):
    """Decodes some of the validation split after each validation.

    Args:
        plan: Plan of the run; `tracking.num_samples` is the number of sources.
        inputs: Inputs of the run.
        events: Receives `samples` events.
    """

    def __init__(self, plan: Plan, inputs: RunInputs, events: EventStream) -> None:
        self._plan, self._inputs, self._events = plan, inputs, events
        self._rows = sample(
            plan.task,
            "validation",
            plan.tracking.num_samples,
            num_in_split=inputs.encoding["validation"].num_examples,
        ).rows
        self._decoding = dataclasses.replace(
            plan.decoding,
            num_beams=1,
            do_sample=False,
            max_new_tokens=min(plan.decoding.max_new_tokens, _MOST_NEW_TOKENS),
            min_new_tokens=0,
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the texts that the method generates now."""
        plan, backbone = self._plan, self._inputs.backbone
        predictions = decode(
            DecodingJob(
                backbone=backbone,
                method=plan.method,
                prompter=self._inputs.prompter,
                rows=self._rows,
                decoding=self._decoding,
                batch_size=plan.data.eval_batch_size,
                reserved_positions=plan.method.reserved_positions(backbone),
                labels=plan.task.label_set,
            )
        )
        samples = [
            {
                "source": readable_source(prediction.source),
                "reference": prediction.references[0],
                "hypothesis": prediction.hypothesis,
            }
            for prediction in predictions
        ]
        self._events.write("samples", step=trainer.global_step, samples=samples)
