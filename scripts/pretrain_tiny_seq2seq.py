"""Pretrains a small encoder-decoder from text: a BART by text infilling, or a T5 by span corruption.

    python scripts/pretrain_tiny_seq2seq.py --kind bart --text wiki.jsonl.xz --out my_bart
    ptl-prefix train backbone=local backbone.path=my_bart

In: JSON lines with a column `text`, or plain text (.txt, a text a line); .xz is read too. Out: a folder in the Hugging
Face format: bfloat16 safetensors, a byte-level BPE tokenizer, a model card, and the losses on the way.

A prefix can only steer towards what a backbone already does, and table-to-text asks it to copy. So passages are short
(a few sentences), and BART's decoder writes all of each again, most of which its encoder has seen, with the sentences
in another order: the shortest way to copying by content. T5's objective is kept as it is in the paper: its decoder
writes only what its encoder has not seen, and learns to copy late or never. In half of the
batches BART's encoder counts from a random position: all of its positions are trained, and its decoder cannot find its
words by place alone. The decoder's own positions are trained as far as passages are long. Everything follows from the
seed, except where `--minutes` ends a run before `--steps`.
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
from seq2seq_models import MAX_POSITIONS, new_model, read_from, tokenizer_for
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ptl_prefix.backbones.source import EMBEDDED

_FEWEST_WORDS, _MOST_WORDS = 10, 48
_BATCHES_IN_POOL = 16
"""Rows of about one length share a batch: as many as these hold are sorted together."""
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
        """Tokens read and written, padding aside."""
        return int(self.attention_mask.sum()) + int((self.labels >= 0).sum())


def batches(
    texts: Sequence[Passage], noise: Noise, rng: np.random.Generator, *, rows: int, pad_id: int
) -> Iterator[Batch]:
    """Batches without end: every passage once in each round, with new noise, beside others of about its length."""
    while True:
        order = rng.permutation(len(texts))
        for pool in np.array_split(order, math.ceil(len(order) / (rows * _BATCHES_IN_POOL))):
            pooled = sorted((noise.row(texts[place], rng) for place in pool), key=lambda row: len(row.source))
            chunks = [pooled[start : start + rows] for start in range(0, len(pooled), rows)]
            for chunk in rng.permutation(len(chunks)):
                yield as_batch(chunks[chunk], pad_id)


def as_batch(rows: Sequence[Row], pad_id: int) -> Batch:
    """Rows of different lengths as one batch."""
    sources = [torch.tensor(row.source) for row in rows]
    return Batch(
        pad_sequence(sources, batch_first=True, padding_value=pad_id),
        pad_sequence([torch.ones_like(ids) for ids in sources], batch_first=True),
        pad_sequence([torch.tensor(row.target) for row in rows], batch_first=True, padding_value=_IGNORED_LABEL),
    )


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Nats per written token."""
    loss: Tensor = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False
    ).loss
    return loss


@torch.no_grad()
def held_out_loss(model: nn.Module, texts: Sequence[Passage], noise: Noise, *, pad_id: int) -> float:
    """Nats per written token, with noise that is the same at every call."""
    rng = np.random.default_rng(0)
    rows = [noise.row(passage, rng) for passage in texts]
    model.train(False)
    nats, tokens = 0.0, 0
    for start in range(0, len(rows), 20):
        batch = as_batch(rows[start : start + 20], pad_id)
        written = int((batch.labels >= 0).sum())
        with autocast():
            nats += loss_of(model, batch).item() * written
        tokens += written
    model.train()
    return nats / tokens


def noises_of(kind: str, tokenizer: Tokenizer) -> dict[str, Noise]:
    """What a kind is trained on, first, and what else its held-out loss is measured on."""
    if kind == "t5":
        return {"span corruption": SpanCorruption(tokenizer)}
    return {
        "text infilling": TextInfilling(tokenizer),
        "copying": TextInfilling(tokenizer, masked_share=0.0, permutes=False),
    }


def pretrain(
    model: nn.Module, texts: Sequence[Passage], noise: Noise, arguments: argparse.Namespace, *, pad_id: int
) -> list[LoggedLoss]:
    """Train until `--steps`, or until `--minutes` are over."""
    rng = np.random.default_rng(arguments.seed)
    stream = batches(texts, noise, rng, rows=arguments.rows, pad_id=pad_id)

    def next_loss() -> tuple[Tensor, int]:
        batch = next(stream)
        with read_from(model, first_position(batch, rng)):
            return loss_of(model, batch), batch.num_tokens

    return train(model, next_loss, steps=arguments.steps, minutes=arguments.minutes, lr=arguments.lr)


def first_position(batch: Batch, rng: np.random.Generator) -> int:
    """Where what is read begins: half of the time at 0, as in use, else anywhere, so that no position is new."""
    return 0 if rng.random() < 0.5 else int(rng.integers(0, MAX_POSITIONS - batch.input_ids.shape[1] + 1))


def passages_of(texts: Sequence[str], rng: random.Random, limit: int, *, what: str) -> list[Passage]:
    """At most `limit` passages."""
    cut = (part for text in texts for part in passages(text, rng, fewest_words=_FEWEST_WORDS, most_words=_MOST_WORDS))
    found: list[Passage] = list(islice(cut, limit))
    if not found:
        raise SystemExit(f"The {what} must have a passage of {_FEWEST_WORDS} words or more, but has none; add text.")
    return found


def save(model: Any, tokenizer: Any, training: Training, folder: Path) -> None:
    """Weights as bfloat16 safetensors, the tokenizer, the model card, and the losses on the way."""
    model.to(torch.bfloat16).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    lines = (json.dumps(asdict(loss)) for loss in training.logged)
    (folder / "losses.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(training), encoding="utf-8")


def told(
    arguments: argparse.Namespace,
    model: Any,
    tokenizer: Any,
    logged: Sequence[LoggedLoss],
    held_out: Mapping[str, float],
    example: Row,
) -> Training:
    """What the model card says."""
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
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("bart", "t5"), required=True)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="JSON lines with `text`, or .txt; or .xz")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights and the tokenizer")
    parser.add_argument("--tokenizer", type=Path, default=EMBEDDED / "tiny_gpt2", help="folder with a tokenizer.json")
    parser.add_argument("--steps", type=int, default=6000, help="optimizer steps")
    parser.add_argument("--minutes", type=float, default=math.inf, help="ends the run before its steps are done")
    parser.add_argument("--rows", type=int, default=16, help="passages in a batch")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3, help="of the encoder, and of the decoder")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--feed-forward", type=int, default=512, help="inner width of a layer")
    parser.add_argument("--licence", default="cc-by-sa-4.0", help="of the text, and so of the weights")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Text to backbone."""
    arguments = parse(words)
    rng = random.Random(arguments.seed)
    torch.manual_seed(arguments.seed)
    tokenizer = tokenizer_for(arguments.kind, arguments.tokenizer)
    noises = noises_of(arguments.kind, tokenizer.backend_tokenizer)
    texts, held_out_texts = hold_out(read_texts(arguments.text), rng)
    wanted = arguments.steps * arguments.rows
    seen = passages_of(texts, rng, wanted, what="text")
    held_out = passages_of(held_out_texts, rng, _HELD_OUT_PASSAGES, what="held-out text")
    model: Any = new_model(arguments.kind, tokenizer, arguments)
    print(f"{len(seen):,} passages; {model.num_parameters():,} parameters", flush=True)
    pad_id = tokenizer.pad_token_id
    logged = pretrain(model, seen, next(iter(noises.values())), arguments, pad_id=pad_id)
    losses = {name: held_out_loss(model, held_out, noise, pad_id=pad_id) for name, noise in noises.items()}
    print("held out, nats per token:", ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))
    example = next(iter(noises.values())).row(held_out[0], np.random.default_rng(0))
    training = told(arguments, model, tokenizer, logged, losses, example)
    save(model, tokenizer, training, arguments.out)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
