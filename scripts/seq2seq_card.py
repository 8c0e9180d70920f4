"""The model card of a small encoder-decoder: architecture, training, losses, abilities and limits.

In: the facts of a finished pretraining. Out: the text of `README.md`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pretraining_steps import LoggedLoss

_ARCHITECTURES = {
    "bart": "BART (post-norm, learned positions, tied embeddings)",
    "t5": "T5 (pre-norm, relative positions, tied embeddings)",
}
_OBJECTIVES = {
    "bart": "text infilling (Lewis et al., 2020): 30% of a passage's tokens are masked, in spans of 3 on average, each "
    "by one mask; its sentences are permuted; the target is the original passage",
    "t5": "span corruption (Raffel et al., 2020): 15% of a passage's tokens are masked, in spans of 3 on average, each "
    "by a sentinel; the target is the spans after their sentinels",
}
_ABILITIES = {
    "bart": """The decoder copies the source. The copying loss above measures how well: 0 means that it copies all,
the loss of a small language model (5 nats and more) that it copies nothing. A prefix needs copying by content to turn a
table into a sentence. The model fills masked spans with plausible words, not facts. It accepts 512 tokens, but was
trained on at most 96 at once; output positions after about 70 are hardly trained.""",
    "t5": """The model fills short gaps with plausible words. It was not trained to write whole sentences, nor to copy
from the source, and every output begins with a sentinel. Frozen models of this kind are known to be hard to adapt
(Lester et al., 2021, first train T5 further as a language model before prompt tuning), and such a small one can hardly
be adapted: the loss falls, but outputs stay wrong. Use it to test whether a method trains, not how well it solves a
task.""",
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """The facts of a finished pretraining.

    Args:
        kind: `bart` or `t5`.
        folder: Name of the model folder.
        command: Command that trained the model.
        licence: Licence of the text, as abbreviated on model hubs.
        num_parameters: Number of parameters; tied ones count once.
        shape: Description of the model's size.
        tokenizer: Description of the tokenizer.
        rows: Passages per batch.
        logged: Logged training losses.
        held_out: Held-out loss in nats per target token, by objective.
        source: A corrupted held-out passage.
        written: The model's greedy output for it.
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
    """Return the text of `README.md`."""
    last = training.logged[-1]
    losses = "\n".join(f"| {name} | {loss:.3f} |" for name, loss in training.held_out.items())
    return f"""---
license: {training.licence}
language: en
---

# {training.folder}

A small {training.kind.upper()} for testing adaptation methods: `backbone=local backbone.path={training.folder}`.

| | |
| --- | --- |
| architecture | {_ARCHITECTURES[training.kind]}: {training.shape}, no dropout |
| parameters | {training.num_parameters:,} |
| tokenizer | {training.tokenizer} |
| weights | bfloat16, safetensors |

## Training

Objective: {_OBJECTIVES[training.kind]}.

{last.step:,} steps of {training.rows} passages of 10 to 48 words, {last.tokens / 1e6:.1f} million source and
target tokens, {last.seconds / 60:.0f} minutes on a CPU. float32 weights, bfloat16 autocast if the CPU supports it;
AdamW, linear warm-up, cosine decay. Training loss over the last steps: {last.loss:.3f}; all: `losses.jsonl`.

```
{training.command}
```

Loss on held-out passages, in nats per target token:

| objective | loss |
| --- | --- |
{losses}

## Abilities and limits

{_ABILITIES[training.kind]}

A corrupted held-out passage, and the model's greedy output:

> {_quotable(training.source)}

> {_quotable(training.written)}

The model knows no facts and does not reason; its statements about the world are noise. Its style and biases are those
of the training text.

## Licence

{training.licence}, the licence of the training text.
"""


def _quotable(text: str) -> str:
    """Escape text for a Markdown quotation, in one line."""
    return " ".join(text.split()).replace("<", "\\<").replace("|", "\\|")
