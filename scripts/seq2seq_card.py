"""The model card of a small encoder-decoder: what it is, what it saw, how well it does it, what it is good for.

In: what `pretrain_tiny_seq2seq.py` knows when it is done. Out: the text of `README.md`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pretraining_steps import LoggedLoss

_ARCHITECTURES = {
    "bart": "BART (post-norm, learned positions, tied embeddings)",
    "t5": "T5 (pre-norm, relative positions, tied embeddings)",
}
_OBJECTIVES = {
    "bart": "text infilling (Lewis et al., 2020): 30% of a passage's tokens are hidden, in spans of 3 on average, each "
    "behind one mask; its sentences change places; the decoder writes the whole passage as it was",
    "t5": "span corruption (Raffel et al., 2020): 15% of a passage's tokens are hidden, in spans of 3 on average, each "
    "behind a sentinel; the decoder writes the spans after their sentinels, and nothing else",
}
_ABILITIES = {
    "bart": """Its decoder writes again what its encoder reads. How well, the loss of copying above says: at 0 it copies
everything, at the loss of a small language model (5 nats and more) nothing. Copying by content is what
a prefix needs to turn a table into a sentence. What was hidden it guesses: plausible words, no facts. It can read
512 tokens, though it was trained on no more than 96 at once; what it writes after about 70 is written at positions that
it has hardly seen.""",
    "t5": """It fills short gaps with plausible words. It was never asked to write a whole sentence, nor anything that
it could read in its source, so it has no reason to copy, and every text that it writes begins with a sentinel. Frozen
models of this kind are known to be hard to steer (Lester et al., 2021, train T5 further as a language model before they
tune prompts), and one this small is hardly steered at all: a loss falls, and the text stays wrong. Take it to see
whether a method trains, not how well a task can be done.""",
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """One pretraining, told.

    Args:
        kind: `bart` or `t5`.
        folder: Where the model is.
        command: What made it.
        licence: Of the text, as model hubs abbreviate it.
        num_parameters: Tied ones counted once.
        shape: The sizes that the command chose, in words.
        tokenizer: The tokenizer, in words.
        rows: Passages in a batch.
        logged: Losses on the way.
        held_out: Nats per written token, by what was to be written.
        source: A held-out passage with noise.
        written: What the model makes of it, greedily.
    """

    kind: str
    folder: str
    command: str
    licence: str
    num_parameters: int
    shape: str
    tokenizer: str
    rows: int
    logged: Sequence[LoggedLoss]
    held_out: Mapping[str, float]
    source: str
    written: str


def card(training: Training) -> str:
    """The whole README."""
    last = training.logged[-1]
    losses = "\n".join(f"| {name} | {loss:.3f} |" for name, loss in training.held_out.items())
    return f"""---
license: {training.licence}
language: en
---

# {training.folder}

A small {training.kind.upper()} for trying methods of adaptation on: `backbone=local backbone.path={training.folder}`.

| | |
| --- | --- |
| architecture | {_ARCHITECTURES[training.kind]}: {training.shape}, no dropout |
| parameters | {training.num_parameters:,} |
| tokenizer | {training.tokenizer} |
| weights | bfloat16, safetensors |

## What it was trained on

Objective: {_OBJECTIVES[training.kind]}.

{last.step:,} steps of {training.rows} passages of 10 to 48 words, {last.tokens / 1e6:.1f} million tokens read and
written, {last.seconds / 60:.0f} minutes on a CPU. float32 weights, under bfloat16 autocast where the processor has it;
AdamW, a linear warm-up, half a cosine. Training loss over the last steps: {last.loss:.3f}; on the way: `losses.jsonl`.

```
{training.command}
```

Loss on passages that were held out, in nats per written token:

| to be written | loss |
| --- | --- |
{losses}

## What it can and cannot do

{_ABILITIES[training.kind]}

A held-out passage as it reads it, and what it writes greedily:

> {_quotable(training.source)}

> {_quotable(training.written)}

It knows no facts and does not reason; whatever it says about the world is noise. The text that it saw shapes its style
and its biases.

## Licence

{training.licence}, as the text is that it was trained on.
"""


def _quotable(text: str) -> str:
    """Text as Markdown shows it: angle brackets kept, lines joined."""
    return " ".join(text.split()).replace("<", "\\<").replace("|", "\\|")
