"""Texts that a prefix or prompt starts from, as token ids: words, a document, and training rows.

In: words, a document or encoded training rows, and a number of tokens. Out: so many ids. A text that is too short is
repeated.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.methods.start_inputs import StartInputs, TrainingPair, TrainingRows, first_pairs, pair_of


def word_ids(backbone: Backbone, text: str, length: int) -> list[int]:
    """The first `length` token ids of a text with words, which is repeated if it is too short."""
    # Every word is at least one token.
    repeated = " ".join([text.strip()] * -(-length // len(text.split())))
    ids: list[int] = backbone.tokenizer(repeated, add_special_tokens=False, verbose=False).input_ids
    return ids[:length]


def missing_text_problem(init_text: str | None, inputs: StartInputs) -> list[str]:
    """A sentence if `init=text` has no words: neither configured nor from the task."""
    if inputs.words(init_text).strip():
        return []
    found = (
        "is null and the task has no `task.instruction` and no document" if init_text is None else f"is {init_text!r}"
    )
    return [f"`method.init_text` must have words for `method.init=text`, but {found}; write what the task is."]


def words_note(backbone: Backbone, ids: Sequence[int], inputs: StartInputs, init_text: str | None) -> str:
    """A remark for the user on the words that a method starts from; a document's own words are not shown."""
    if init_text is None and inputs.read_document():
        return f"starts from the first {len(ids)} tokens of the document (sha256 {digest(ids)})"
    whose = "the words" if init_text is not None else "the task's instruction,"
    return f"starts from {whose} {backbone.tokenizer.decode(list(ids))!r}"


def start_token_id(backbone: Backbone) -> int:
    """The id of the tokenizer's bos token, or of eos if it has none."""
    tokenizer = backbone.tokenizer
    return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)


def training_input_ids(rows: TrainingRows, length: int) -> list[int]:
    """The first `length` ids of the training prompts, one after another, one for each example."""
    return joined((pair.prompt for pair in first_pairs(rows)), length)


def demonstration_ids(rows: TrainingRows, length: int) -> list[int]:
    """The first `length` ids of the training pairs, one after another, one for each example."""
    return joined(map(_whole, first_pairs(rows)), length)


def pairs_after_demonstrations(rows: TrainingRows, length: int) -> Iterator[TrainingPair]:
    """The pairs of the examples that `demonstration_ids` has not used; all, if it has used every one."""
    ends = itertools.accumulate((len(_whole(pair)) for pair in first_pairs(rows)), initial=0)
    num_used = next((number for number, end in enumerate(ends) if end >= length), 0)
    unused = itertools.islice(first_pairs(rows), num_used, None)
    first = next(unused, None)
    return first_pairs(rows) if first is None else itertools.chain([first], unused)


def document_ids(backbone: Backbone, document: str) -> list[int]:
    """All token ids of a document."""
    ids: list[int] = backbone.tokenizer(document, add_special_tokens=False, verbose=False).input_ids
    return ids


def document_chunk_ids(ids: Sequence[int], length: int, num_chunks: int) -> list[int]:
    """`length` ids: chunks of equal length, each from a place of a document that torch's random state draws.

    The chunks are in the order of the document. One that is shorter than a chunk is taken whole.
    """
    in_chunk = -(-length // num_chunks)
    starts = torch.randint(max(1, len(ids) - in_chunk + 1), (num_chunks,)).sort().values.tolist()
    return joined((list(ids[start : start + in_chunk]) for start in starts), length)


def sampled_chunk_ids(rows: TrainingRows, length: int, num_chunks: int) -> list[int]:
    """`length` ids: chunks of equal length, each from a training row, both drawn from torch's random state.

    Every row is drawn with the same probability, and every place in it where a whole chunk begins. A row that is
    shorter than a chunk is taken whole.
    """
    in_chunk = -(-length // num_chunks)

    def draw() -> list[int]:
        (row,) = rows.rows([int(torch.randint(len(rows), ()))])
        ids = _whole(pair_of(row))
        start = int(torch.randint(max(1, len(ids) - in_chunk + 1), ()))
        return ids[start : start + in_chunk]

    return joined(iter(draw, []), length)


def digest(ids: Sequence[int]) -> str:
    """A short hash of token ids, by which a record names a text without showing it."""
    return hashlib.sha256(repr(list(ids)).encode()).hexdigest()[:12]


def _whole(pair: TrainingPair) -> list[int]:
    return pair.prompt + pair.target


def joined(texts: Iterable[list[int]], length: int) -> list[int]:
    """The first ids of texts, one after another; of all of them repeated, if they have fewer."""
    ids: list[int] = []
    for text in texts:
        ids += text
        if len(ids) >= length:
            break
    return list(itertools.islice(itertools.cycle(ids), length))
