"""Continues many prompts, of which some share each forward pass.

In: prompts, each with a seed and an end of its own. Out: the generated ids of each. A prompt's continuation does not
depend on the prompts beside it, up to the rounding of a batch: its row joins and leaves by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.batch_row import Row
from ptl_prefix.backbones.row_batch import RowBatch
from ptl_prefix.backbones.sampling import sample_token


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt to continue.

    Args:
        ids: Its ids, at least one.
        seed: Seed of its sampling.
        max_new_tokens: Largest number of generated tokens, the end included.
        is_end: Whether an id ends the continuation.
    """

    ids: Sequence[int]
    seed: int
    max_new_tokens: int
    is_end: Callable[[int], bool]


@dataclass(eq=False)
class _Text:
    """A prompt with what was generated after it."""

    prompt: Prompt
    place: int
    row: Row
    random: torch.Generator
    ids: list[int] = field(default_factory=list)

    @property
    def is_ended(self) -> bool:
        return self.prompt.is_end(self.ids[-1]) or len(self.ids) == self.prompt.max_new_tokens


def decode_prompts(
    backbone: Backbone, prompts: Sequence[Prompt], *, temperature: float, top_p: float, num_rows: int
) -> list[list[int]]:
    """Continue each prompt.

    Args:
        backbone: A decoder-only backbone, with nothing attached to it.
        prompts: The prompts.
        temperature: Softmax temperature; 0 takes the most likely token.
        top_p: Probability mass of nucleus sampling; 1 samples from all tokens.
        num_rows: Largest number of prompts in one forward pass.

    Returns:
        The generated ids of each prompt, the one that ends it included.
    """

    def add_token(text: _Text, logits: Float[Tensor, " vocabulary"]) -> None:
        if temperature > 0:
            text.ids.append(sample_token(logits, temperature=temperature, top_p=top_p, random=text.random))
        else:
            text.ids.append(int(logits.argmax()))

    found: dict[int, list[int]] = {}
    waiting = list(enumerate(prompts))[::-1]
    batch, running = RowBatch(backbone), list[_Text]()
    try:
        columns = max((len(prompt.ids) + prompt.max_new_tokens for prompt in prompts), default=0)
        batch.reserve(num_new_rows=min(num_rows, len(prompts)), region=0, columns=columns)
        while waiting or running:
            while waiting and len(running) < num_rows:
                place, prompt = waiting.pop()
                text = _Text(prompt, place, batch.join(None), torch.Generator().manual_seed(prompt.seed))
                add_token(text, batch.read([(text.row, prompt.ids)])[0])
                running.append(text)
            for text in [text for text in running if text.is_ended]:
                found[text.place] = text.ids
                running.remove(text)
                batch.leave(text.row)
            if running:
                logits = batch.step([(text.row, text.ids[-1]) for text in running])
                for text, row_logits in zip(running, logits, strict=True):
                    add_token(text, row_logits)
    finally:
        batch.close()
    return [found[place] for place in range(len(prompts))]
