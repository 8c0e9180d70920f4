"""Pretrains a small encoder-decoder on text: a BART by text infilling, or a T5 by span corruption.

    python scripts/pretrain_tiny_seq2seq.py --kind bart --text wiki.jsonl.xz --out my_bart
    ptl-prefix train backbone=local backbone.path=my_bart

In: JSON lines with a column `text`, or plain text (.txt, one text per line); .xz is read too. Out: a folder in the
Hugging Face format: bfloat16 safetensors, a byte-level BPE tokenizer, a model card, and the logged losses.

A prefix can only elicit what a backbone can already do, and table-to-text needs copying. Therefore passages are short
(a few sentences), and BART's target is the whole passage, most of which is in the source with permuted sentences;
this teaches copying by content quickly. T5's objective is that of the paper: its target contains only what is not in
the source, so it learns to copy late or never. In half of the batches BART's encoder positions start at a random
position: all positions are trained, and the decoder cannot rely on positions to find tokens. The decoder's positions
are trained up to the length of passages. Results depend only on the seed, unless `--minutes` ends the run before
`--steps`.
"""

import argparse
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corpus import hold_out, passages, read_texts
from denoising import Noise, Row, SpanCorruption, TextInfilling
from pretraining_steps import LoggedLoss, autocast, train
from seq2seq_card import Training, card
from seq2seq_models import MAX_POSITIONS, encoder_positions_from, new_model, tokenizer_for
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ptl_prefix.backbones.source import EMBEDDED

_MIN_WORDS, _MAX_WORDS = 10, 48
_BATCHES_IN_POOL = 16
"""Number of batches whose rows are sorted by length together, so that rows of a batch have similar lengths."""
_HELD_OUT_PASSAGES = 400
_IGNORED_LABEL = -100

Passage = Sequence[str]


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right; padding in `labels` is ignored by the loss."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    @property
    def num_tokens(self) -> int:
        """Number of source and target tokens, without padding."""
        return int(self.attention_mask.sum()) + int((self.labels >= 0).sum())


def batches(
    texts: Sequence[Passage], noise: Noise, rng: np.random.Generator, *, rows: int, pad_id: int
) -> Iterator[Batch]:
    """Yield batches endlessly: every passage once per epoch, with new noise, in a batch of similar lengths."""
    while True:
        order = rng.permutation(len(texts))
        for pool in np.array_split(order, math.ceil(len(order) / (rows * _BATCHES_IN_POOL))):
            pooled = sorted((noise.row(texts[index], rng) for index in pool), key=lambda row: len(row.source))
            chunks = [pooled[start : start + rows] for start in range(0, len(pooled), rows)]
            for chunk in rng.permutation(len(chunks)):
                yield as_batch(chunks[chunk], pad_id)


def as_batch(rows: Sequence[Row], pad_id: int) -> Batch:
    """Pad rows to one batch."""
    sources = [torch.tensor(row.source) for row in rows]
    return Batch(
        pad_sequence(sources, batch_first=True, padding_value=pad_id),
        pad_sequence([torch.ones_like(ids) for ids in sources], batch_first=True),
        pad_sequence([torch.tensor(row.target) for row in rows], batch_first=True, padding_value=_IGNORED_LABEL),
    )


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Loss in nats per target token."""
    loss: Tensor = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False
    ).loss
    return loss


@torch.no_grad()
def held_out_loss(model: nn.Module, texts: Sequence[Passage], noise: Noise, *, pad_id: int) -> float:
    """Loss in nats per target token, with the same noise at every call."""
    rng = np.random.default_rng(0)
    rows = [noise.row(passage, rng) for passage in texts]
    model.train(False)
    nats, tokens = 0.0, 0
    for start in range(0, len(rows), 20):
        batch = as_batch(rows[start : start + 20], pad_id)
        num_targets = int((batch.labels >= 0).sum())
        with autocast():
            nats += loss_of(model, batch).item() * num_targets
        tokens += num_targets
    model.train()
    return nats / tokens


def noises_of(kind: str, tokenizer: Tokenizer) -> dict[str, Noise]:
    """The objective of a kind, followed by other objectives for its held-out loss."""
    if kind == "t5":
        return {"span corruption": SpanCorruption(tokenizer)}
    return {
        "text infilling": TextInfilling(tokenizer),
        "copying": TextInfilling(tokenizer, masked_share=0.0, permutes=False),
    }


def pretrain(
    model: nn.Module, texts: Sequence[Passage], noise: Noise, arguments: argparse.Namespace, *, pad_id: int
) -> list[LoggedLoss]:
    """Train for `--steps` steps or `--minutes` minutes."""
    rng = np.random.default_rng(arguments.seed)
    stream = batches(texts, noise, rng, rows=arguments.rows, pad_id=pad_id)

    def next_loss() -> tuple[Tensor, int]:
        batch = next(stream)
        with encoder_positions_from(model, first_position(batch, rng)):
            return loss_of(model, batch), batch.num_tokens

    return train(model, next_loss, steps=arguments.steps, minutes=arguments.minutes, lr=arguments.lr)


def first_position(batch: Batch, rng: np.random.Generator) -> int:
    """Draw the first encoder position: 0, as in use, in half of the batches, else random, to train all positions."""
    return 0 if rng.random() < 0.5 else int(rng.integers(0, MAX_POSITIONS - batch.input_ids.shape[1] + 1))


def passages_of(texts: Sequence[str], rng: random.Random, limit: int, *, what: str) -> list[Passage]:
    """Return at most `limit` passages."""
    cut = (part for text in texts for part in passages(text, rng, min_words=_MIN_WORDS, max_words=_MAX_WORDS))
    found: list[Passage] = list(islice(cut, limit))
    if not found:
        raise SystemExit(f"The {what} must contain a passage of at least {_MIN_WORDS} words, but does not; add text.")
    return found


def save(model: Any, tokenizer: Any, training: Training, folder: Path) -> None:
    """Save bfloat16 weights, the tokenizer, the model card and the logged losses."""
    model.to(torch.bfloat16).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    lines = (json.dumps(asdict(loss)) for loss in training.logged)
    (folder / "losses.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(training), encoding="utf-8")


def describe(
    arguments: argparse.Namespace,
    model: Any,
    tokenizer: Any,
    logged: Sequence[LoggedLoss],
    held_out: Mapping[str, float],
    example: Row,
) -> Training:
    """Collect the facts of the model card."""
    model.eval()
    written = model.generate(torch.tensor([example.source]), max_new_tokens=100, num_beams=1, do_sample=False)
    texts = " ".join(file.name for file in arguments.text)
    return Training(
        kind=arguments.kind,
        folder=arguments.out.name,
        command=f"python scripts/pretrain_tiny_seq2seq.py --kind {arguments.kind} --text {texts} "
        f"--out {arguments.out.name} --steps {logged[-1].step} --rows {arguments.rows} --lr {arguments.lr} "
        f"--seed {arguments.seed}",
        licence=arguments.licence,
        num_parameters=model.num_parameters(),
        shape=f"{arguments.layers} + {arguments.layers} layers, width {arguments.width}, {arguments.heads} heads, "
        f"inner width {arguments.feed_forward}",
        tokenizer=f"byte-level BPE of {arguments.tokenizer.name}, {len(tokenizer):,} entries with "
        f"{'`<s>`, `</s>` and `<mask>`' if arguments.kind == 'bart' else '`</s>` and the sentinels'}",
        rows=arguments.rows,
        logged=logged,
        held_out=held_out,
        source=tokenizer.decode(example.source),
        written=tokenizer.decode(written[0]),
    )


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("bart", "t5"), required=True)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="JSON lines with `text`, or .txt; or .xz")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights and the tokenizer")
    parser.add_argument("--tokenizer", type=Path, default=EMBEDDED / "tiny_gpt2", help="folder with a tokenizer.json")
    parser.add_argument("--steps", type=int, default=6000, help="optimizer steps")
    parser.add_argument("--minutes", type=float, default=math.inf, help="time limit; ends the run before --steps")
    parser.add_argument("--rows", type=int, default=16, help="passages per batch")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3, help="layers of the encoder, and of the decoder")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--feed-forward", type=int, default=512, help="inner width of a layer")
    parser.add_argument("--licence", default="cc-by-sa-4.0", help="licence of the text, and therefore of the weights")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Pretrain and save a backbone."""
    arguments = parse(words)
    rng = random.Random(arguments.seed)
    torch.manual_seed(arguments.seed)
    tokenizer = tokenizer_for(arguments.kind, arguments.tokenizer)
    noises = noises_of(arguments.kind, tokenizer.backend_tokenizer)
    texts, held_out_texts = hold_out(read_texts(arguments.text), rng)
    num_passages = arguments.steps * arguments.rows
    training_passages = passages_of(texts, rng, num_passages, what="text")
    held_out = passages_of(held_out_texts, rng, _HELD_OUT_PASSAGES, what="held-out text")
    model: Any = new_model(arguments.kind, tokenizer, arguments)
    print(f"{len(training_passages):,} passages; {model.num_parameters():,} parameters", flush=True)
    pad_id = tokenizer.pad_token_id
    logged = pretrain(model, training_passages, next(iter(noises.values())), arguments, pad_id=pad_id)
    losses = {name: held_out_loss(model, held_out, noise, pad_id=pad_id) for name, noise in noises.items()}
    print("held out, nats per token:", ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))
    example = next(iter(noises.values())).row(held_out[0], np.random.default_rng(0))
    training = describe(arguments, model, tokenizer, logged, losses, example)
    save(model, tokenizer, training, arguments.out)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
