"""Pretrains a small GPT-2 on text: the recipe of the embedded backbone `tiny_gpt2`.

    python scripts/pretrain_tiny_gpt2.py --corpus wiki.jsonl.xz more.jsonl --out my_backbone
    ptl-prefix train backbone=local backbone.path=my_backbone

In: JSON lines (plain or .xz) with a column `text`. Out: a folder in the Hugging Face format: bfloat16 safetensors and a
byte-level BPE tokenizer, end of text 0 and padding 1.

A prefix can only elicit what a backbone can already do. Therefore most training rows are pairs made from the text
itself - some keywords of a sentence, a separator, the sentence - in many formats: the model learns to copy, which is
what table-to-text needs. Rows start at random positions, so that all positions are trained although rows are half as
long. Results depend only on the seed, unless `--minutes` ends the run before `--steps`.
"""

import argparse
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from corpus import HELD_OUT_EVERY, hold_out, read_texts, sentences
from pretraining_steps import autocast, train
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END, PADDING = "<|endoftext|>", "<|pad|>"
_MAX_POSITIONS = 512
_ROW_TOKENS = 256
_TEXT_ROWS, _PAIR_ROWS = 6, 10
"""Number of rows of each kind per batch."""
_TOKENIZER_DOCUMENTS = 8000

_FIELDS = (
    "name type place area date year number price rating kind near role team title country city family food language "
    "score size owner author series"
)
_SEPARATORS = (" || ", " => ", " ## ", "\n", " = ", " TL;DR ")
_STOP_WORDS = (
    "this that with from have were been which their they also into than then when where while would could about after "
    "before between during there these those such some other more most over under only very its his her was and the "
    "for are has had not but who"
)
_MAX_WORDS_PER_KEYWORD = 4

Ids = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Streams:
    """Text and pairs as ids, each one long row with an end token after every document or pair."""

    text: Ids
    pairs: Ids


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer like GPT-2's: every text can be encoded and decoded without loss."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def short_sentences(text: str) -> Iterator[str]:
    """Yield ASCII sentences of 6 to 32 words."""
    for sentence in sentences(text):
        if sentence.isascii() and 6 <= len(sentence.split()) <= 32:
            yield sentence


def keyword_pair(sentence: str, rng: random.Random) -> str | None:
    """`name : Hong Kong | June => In June he left for Hong Kong.`; `None` if there are too few or too many keywords."""
    keywords = list(_keywords(sentence, rng))
    if not 2 <= len(keywords) <= 9:
        return None
    if rng.random() < 0.4:
        rng.shuffle(keywords)
    if rng.random() < 0.6:
        fields = rng.sample(_FIELDS.split(), len(keywords))
        keywords = [f"{f} : {k}" if rng.random() < 0.9 else k for f, k in zip(fields, keywords, strict=True)]
    return " | ".join(keywords) + rng.choice(_SEPARATORS) + sentence


def _keywords(sentence: str, rng: random.Random) -> Iterator[str]:
    """Yield a random subset of the content words of a sentence; adjacent words form one keyword."""
    keep = rng.uniform(0.45, 0.95)
    stop_words = _STOP_WORDS.split()
    run: list[str] = []
    for written in sentence.split():
        word = written.strip(".,;:()\"'")
        is_content_word = len(word) > 3 or word[:1].isupper() or any(c.isdigit() for c in word)
        if is_content_word and word.lower() not in stop_words and rng.random() < keep:
            run.append(word)
            if len(run) < _MAX_WORDS_PER_KEYWORD and written[-1] not in ".,;:)":
                continue
        if run:
            yield " ".join(run)
            run = []
    if run:
        yield " ".join(run)


def pairs_of(texts: Sequence[str], rng: random.Random, limit: int) -> list[str]:
    """Return at most `limit` shuffled pairs."""
    pairs = (keyword_pair(sentence, rng) for text in texts for sentence in short_sentences(text))
    kept = [pair for pair in pairs if pair is not None]
    rng.shuffle(kept)
    return kept[:limit]


def as_stream(texts: Sequence[str], tokenizer: Tokenizer, *, what: str) -> Ids:
    """Encode texts as one long row of ids."""
    end = tokenizer.token_to_id(END)
    chunks = [np.empty(0, np.uint16)]
    for start in range(0, len(texts), 1000):
        encoded = tokenizer.encode_batch(texts[start : start + 1000])
        chunks.append(np.array([id_ for text in encoded for id_ in (*text.ids, end)], np.uint16))
    stream = np.concatenate(chunks)
    if len(stream) <= _ROW_TOKENS:
        raise SystemExit(f"The {what} must have more than {_ROW_TOKENS} tokens, but has {len(stream)}; add text.")
    return stream


def streams_of(texts: Sequence[str], tokenizer: Tokenizer, rng: random.Random, *, max_pairs: int, what: str) -> Streams:
    """Encode texts, and the pairs made from them."""
    return Streams(
        as_stream(texts, tokenizer, what=what),
        as_stream(pairs_of(texts, rng, max_pairs), tokenizer, what=f"pairs of the {what}"),
    )


def random_rows(stream: Ids, count: int, rng: np.random.Generator) -> Tensor:
    """Cut rows from random offsets of a stream."""
    starts = rng.integers(0, len(stream) - _ROW_TOKENS + 1, count)
    rows = np.stack([stream[start : start + _ROW_TOKENS] for start in starts])
    return torch.from_numpy(rows.astype(np.int64))


def random_positions(count: int, rng: np.random.Generator) -> Tensor:
    """Consecutive positions per row that start at a random one, so that every position of the model is trained."""
    starts = torch.from_numpy(rng.integers(0, _MAX_POSITIONS - _ROW_TOKENS + 1, count))
    return starts[:, None] + torch.arange(_ROW_TOKENS)


@torch.no_grad()
def held_out_loss(model: GPT2LMHeadModel, stream: Ids, num_rows: int = 200) -> float:
    """Nats per token over rows from one end of the stream to the other."""
    starts = np.linspace(0, len(stream) - _ROW_TOKENS, min(num_rows, len(stream) // _ROW_TOKENS)).astype(int)
    losses = []
    model.train(False)
    for chunk in np.array_split(starts, math.ceil(len(starts) / 20)):
        rows = torch.from_numpy(np.stack([stream[s : s + _ROW_TOKENS] for s in chunk]).astype(np.int64))
        with autocast():
            losses.append((model(rows, labels=rows, use_cache=False).loss.item(), len(chunk)))
    model.train()
    return float(sum(loss * rows for loss, rows in losses) / len(starts))


def pretrain(model: GPT2LMHeadModel, data: Streams, held_out: Streams, arguments: argparse.Namespace) -> None:
    """Train for `--steps` steps or `--minutes` minutes."""
    rng = np.random.default_rng(arguments.seed)

    def next_loss() -> tuple[Tensor, int]:
        rows = torch.cat([random_rows(data.text, _TEXT_ROWS, rng), random_rows(data.pairs, _PAIR_ROWS, rng)])
        output = model(rows, position_ids=random_positions(len(rows), rng), labels=rows, use_cache=False)
        return output.loss, rows.numel()

    train(model, next_loss, steps=arguments.steps, minutes=arguments.minutes, lr=arguments.lr)
    text, pairs = held_out_loss(model, held_out.text), held_out_loss(model, held_out.pairs)
    print(f"held out, nats per token: text {text:.3f}, pairs {pairs:.3f}")


def new_model(vocab_size: int, arguments: argparse.Namespace) -> GPT2LMHeadModel:
    """Create a GPT-2 without dropout: a small model does not see enough text to overfit."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=_MAX_POSITIONS,
        n_embd=arguments.width,
        n_layer=arguments.layers,
        n_head=arguments.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    return GPT2LMHeadModel(config)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save bfloat16 weights, and the tokenizer with its special tokens."""
    model.to(torch.bfloat16).eval().save_pretrained(folder)
    fast: Any = PreTrainedTokenizerFast
    fast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=PADDING, model_max_length=_MAX_POSITIONS
    ).save_pretrained(folder)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="JSON lines with `text`; .xz is read too")
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights and the tokenizer")
    parser.add_argument("--steps", type=int, default=4900, help="optimizer steps of 16 x 256 tokens")
    parser.add_argument("--minutes", type=float, default=math.inf, help="time limit; ends the run before --steps")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--max-pairs", type=int, default=450_000)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Pretrain and save a backbone."""
    arguments = parse(words)
    rng = random.Random(arguments.seed)
    torch.manual_seed(arguments.seed)
    texts, held_out_texts = hold_out(read_texts(arguments.corpus), rng)
    tokenizer = train_tokenizer(texts[:_TOKENIZER_DOCUMENTS], arguments.vocab_size)
    limit = arguments.max_pairs
    streams = streams_of(texts, tokenizer, rng, max_pairs=limit, what="corpus")
    held_out = streams_of(
        held_out_texts, tokenizer, rng, max_pairs=limit, what=f"held-out text (1 in {HELD_OUT_EVERY})"
    )
    model = new_model(tokenizer.get_vocab_size(), arguments)
    print(
        f"{len(streams.text):,} tokens of text, {len(streams.pairs):,} of pairs; {model.num_parameters():,} parameters"
    )
    pretrain(model, streams, held_out, arguments)
    save(model, tokenizer, arguments.out)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
