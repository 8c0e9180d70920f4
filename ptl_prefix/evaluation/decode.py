"""Decoding of examples, the same way for every method.

In: a `DecodingJob`: a backbone, a method, examples and decoding settings. Out: one `Prediction` for each example;
`scoring` measures them. A task with a closed set of labels gets its most likely label, and no free text is generated.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.label_likelihood import most_likely_labels
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.batches import PromptBatches
from ptl_prefix.data.encoding import encode_prompts
from ptl_prefix.data.rank_share import ALONE, RankShare
from ptl_prefix.methods.method import Method

Rows = Sequence[Mapping[str, Any]]
"""Examples, as a task gives them."""
Hypotheses = dict[int, str]
"""Decoded texts by the index of their row."""


@dataclass(frozen=True, kw_only=True)
class DecodingJob:
    """The examples to decode, and everything that their outputs depend on.

    Args:
        backbone: Frozen model.
        method: Method that is attached to it; `NoAdaptation` for the bare backbone.
        prompter: Encoder of the sources and decoder of the generated ids.
        rows: Examples, as a task gives them.
        decoding: Decoding settings.
        batch_size: Prompts that are decoded together.
        reserved_positions: Positions that no prompt may use. One number for all methods gives all of them the same
            prompts.
        labels: Legal outputs of a classification task, of which the most likely one is chosen; `None` for free text.
    """

    backbone: Backbone
    method: Method
    prompter: Prompter
    rows: Rows
    decoding: Decoding
    batch_size: int
    reserved_positions: int
    labels: Sequence[str] | None = None


def decode(
    job: DecodingJob,
    *,
    finished: Mapping[str, str] | None = None,
    on_batch: Callable[[list[Prediction]], None] = lambda _: None,
    rank_share: RankShare = ALONE,
    gather: Callable[[Hypotheses], Hypotheses] = lambda hypotheses: hypotheses,
) -> list[Prediction]:
    """Decode every row of a job.

    Args:
        job: Examples, model and decoding settings.
        finished: Texts that an earlier call decoded, by example id; a batch whose rows all have one is skipped.
        on_batch: Callback that receives the predictions of each batch that is decoded.
        rank_share: Share of the batches that this process decodes. The batches are the same for any number of ranks.
        gather: Callback that merges the texts of all ranks.

    Returns:
        One prediction for each row, in the order of the rows.
    """
    rows, finished = job.rows, finished or {}
    write = _writer(job)
    hypotheses: Hypotheses = {}
    was_training = job.method.training
    job.method.eval()
    # Batches do not depend on what is finished, so that a resumed evaluation has the outputs of an uninterrupted one.
    for number, (inputs, indices) in enumerate(_batches(job)):
        if not rank_share.has(number):
            continue
        if all(rows[index]["example_id"] in finished for index in indices):
            hypotheses.update((index, finished[rows[index]["example_id"]]) for index in indices)
            continue
        texts = write(job.method.condition(inputs.to(job.backbone.device)), number)
        hypotheses.update(zip(indices, texts, strict=True))
        on_batch([prediction_of(rows[index], text) for index, text in zip(indices, texts, strict=True)])
    job.backbone.slots.clear()
    job.method.train(was_training)
    hypotheses = gather(hypotheses)
    return [prediction_of(row, hypotheses[index]) for index, row in enumerate(rows)]


def _batches(job: DecodingJob) -> PromptBatches:
    """The prompts, cut so that the longest possible output fits after each of them."""
    prompter, labels = job.prompter, job.labels
    longest = job.decoding.max_new_tokens
    if labels is not None:
        longest = max(len(prompter.encode_target(label)) for label in labels)
    position_budget = job.backbone.position_budget(reserved=job.reserved_positions, max_new_tokens=longest)
    return PromptBatches(
        encode_prompts([row["source"] for row in job.rows], prompter, max_prompt_tokens=position_budget),
        batch_size=job.batch_size,
        padding=job.backbone.padding(prompter),
    )


def _writer(job: DecodingJob) -> Callable[[ModelInputs, int], list[str]]:
    """A function from conditioned prompts and the number of their batch to texts."""

    def free_text(inputs: ModelInputs, number: int) -> list[str]:
        # One seed per batch: with one seed for all, the first rows of all batches would be sampled alike.
        decoding = dataclasses.replace(job.decoding, seed=job.decoding.seed + number)
        return [job.prompter.decode(ids) for ids in generate(job.backbone, inputs, decoding, job.prompter.stop_ids)]

    if job.labels is None:
        return free_text
    labels = job.labels
    encoded = [job.prompter.encode_target(label) for label in labels]

    def most_likely_label(inputs: ModelInputs, number: int) -> list[str]:
        return [labels[label.place] for label in most_likely_labels(job.backbone, inputs, encoded)]

    return most_likely_label


def prediction_of(row: Mapping[str, Any], hypothesis: str) -> Prediction:
    """The prediction for an example, as a task gives it."""
    return Prediction(
        id=row["example_id"],
        source=row["source"],
        references=tuple(row["targets"]),
        hypothesis=hypothesis,
        values=tuple(row["values"]),
        group=row["group"],
    )
