"""Decode a split, the same way for every method.

In: a backbone, a method and examples. Out: outputs beside their references; `scoring` measures them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from annotated_types import Ge

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.batches import PromptBatches
from ptl_prefix.data.encoding import encode_prompts
from ptl_prefix.methods.method import Method
from ptl_prefix.settings import settings_from


class EvaluationSettings:
    """What is decoded when training ends.

    Args:
        num_examples: Inputs of the test split, evenly spread over it; `None` is all.
        compare_bare: Whether the bare backbone decodes them too.
    """

    @settings_from("evaluation/default")
    def __init__(self, *, num_examples: Annotated[int, Ge(1)] | None, compare_bare: bool) -> None:
        self.num_examples = num_examples
        self.compare_bare = compare_bare

    def sample(self, examples: Any) -> list[Mapping[str, Any]]:
        """The rows of a split that are decoded: the same ones in every run."""
        count = len(examples)
        kept = count if self.num_examples is None else min(self.num_examples, count)
        return [examples[index * count // kept] for index in range(kept)]


def decode(
    backbone: Backbone,
    method: Method,
    rows: Sequence[Mapping[str, Any]],
    prompter: Prompter,
    decoding: Decoding,
    *,
    batch_size: int,
    positions_left_free: int,
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
    """
    room = backbone.room_for_prompt(taken=positions_left_free, max_new_tokens=decoding.max_new_tokens)
    prompts = encode_prompts([row["source"] for row in rows], prompter, max_prompt_tokens=room)
    written: dict[int, str] = {}
    batches = PromptBatches(
        prompts, batch_size=batch_size, pad_id=backbone.pad_id, decoder_start_ids=prompter.decoder_start_ids
    )
    was_training = method.training
    method.eval()
    for inputs, indices in batches:
        conditioned = method.condition(inputs.to(backbone.device))
        ids = generate(backbone, conditioned, decoding, prompter.stop_ids)
        written.update(zip(indices, map(prompter.decode, ids), strict=True))
    backbone.slots.clear()
    method.train(was_training)
    return list(_predictions(rows, written))


def _predictions(rows: Sequence[Mapping[str, Any]], written: Mapping[int, str]) -> Iterator[Prediction]:
    for index, row in enumerate(rows):
        yield Prediction(
            id=row["example_id"],
            source=row["source"],
            references=tuple(row["targets"]),
            hypothesis=written[index],
            values=tuple(row["values"]),
            group=row["group"],
        )
