"""Decode examples, the same way for every method.

In: a backbone, a method and examples. Out: outputs beside their references; `scoring` measures them. Where a task has a
closed set of labels, the most likely of them is taken, and no free text is written.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.label_likelihood import label_log_likelihoods
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.batches import PromptBatches
from ptl_prefix.data.encoding import encode_prompts
from ptl_prefix.data.rank_share import ALONE, RankShare
from ptl_prefix.methods.method import Method

Rows = Sequence[Mapping[str, Any]]
"""Examples, as a task gives them."""
Written = dict[int, str]
"""Outputs by the place of their row."""


def decode(
    backbone: Backbone,
    method: Method,
    rows: Rows,
    prompter: Prompter,
    decoding: Decoding,
    *,
    batch_size: int,
    positions_left_free: int,
    labels: Sequence[str] | None = None,
    known: Mapping[str, str] | None = None,
    on_batch: Callable[[list[Prediction]], None] = lambda _: None,
    share: RankShare = ALONE,
    join: Callable[[Written], Written] = lambda written: written,
) -> list[Prediction]:
    """What the backbone writes for each row under `method`, in the order of the rows.

    Args:
        backbone: The frozen model.
        method: Attached to it, or the bare backbone.
        rows: Examples, as a task gives them.
        prompter: Renders sources and decodes ids.
        decoding: How text is decoded.
        batch_size: Prompts decoded together.
        positions_left_free: Positions that no prompt may take, so that every method reads the same prompts.
        labels: The legal outputs, if there are only so many: the most likely one is written.
        known: What was written before, by the id of the row; a batch whose rows are all known is not decoded again.
        on_batch: Told of each batch that is decoded.
        share: Which of the batches this process decodes; they are the same batches, however many share them.
        join: Puts together what all of them have written.
    """
    write = _writer(backbone, method, prompter, decoding, labels)
    longest = decoding.max_new_tokens if labels is None else max(len(prompter.encode_target(one)) for one in labels)
    room = backbone.position_budget(reserved=positions_left_free, max_new_tokens=longest)
    batches = PromptBatches(
        encode_prompts([row["source"] for row in rows], prompter, max_prompt_tokens=room),
        batch_size=batch_size,
        padding=backbone.padding(prompter),
    )
    known = known or {}
    written: Written = {}
    was_training = method.training
    method.eval()
    # Batches are the same whatever is known, so that an evaluation that was killed ends with the same outputs.
    for number, (inputs, indices) in enumerate(batches):
        if not share.has(number):
            continue
        if all(rows[index]["example_id"] in known for index in indices):
            written.update((index, known[rows[index]["example_id"]]) for index in indices)
            continue
        texts = write(method.condition(inputs.to(backbone.device)), number)
        written.update(zip(indices, texts, strict=True))
        on_batch([_prediction(rows[index], text) for index, text in zip(indices, texts, strict=True)])
    backbone.slots.clear()
    method.train(was_training)
    written = join(written)
    return [_prediction(row, written[index]) for index, row in enumerate(rows)]


def _writer(
    backbone: Backbone, method: Method, prompter: Prompter, decoding: Decoding, labels: Sequence[str] | None
) -> Callable[[ModelInputs, int], list[str]]:
    """What turns conditioned prompts, the batch of that number, into texts."""

    def free_text(inputs: ModelInputs, number: int) -> list[str]:
        # Each batch draws from a seed of its own, or the first rows of all batches would share their luck.
        of_batch = dataclasses.replace(decoding, seed=decoding.seed + number)
        return [prompter.decode(ids) for ids in generate(backbone, inputs, of_batch, prompter.stop_ids)]

    if labels is None:
        return free_text
    encoded = [prompter.encode_target(label) for label in labels]

    def label(inputs: ModelInputs, number: int) -> list[str]:
        best = label_log_likelihoods(backbone, inputs, encoded).argmax(dim=1)
        return [labels[index] for index in best.tolist()]

    return label


def _prediction(row: Mapping[str, Any], hypothesis: str) -> Prediction:
    return Prediction(
        id=row["example_id"],
        source=row["source"],
        references=tuple(row["targets"]),
        hypothesis=hypothesis,
        values=tuple(row["values"]),
        group=row["group"],
    )
