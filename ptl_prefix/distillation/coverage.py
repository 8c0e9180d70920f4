"""How often a self-study reads each part of its document.

In: the tokens of the chunks that conversations read, and of the document. Out: the coverage, conversations times chunk
divided by document; a sentence where it is too low; and chunks for a wanted coverage.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from ptl_prefix.distillation.document import Chunk

LEAST_COVERAGE = 5.0
"""Below it, parts of the document are read by few conversations, and what they say is learned less well."""


def coverage_of(chunks: Iterable[Chunk], document_tokens: int) -> float:
    """The tokens of all chunks, divided by those of the document."""
    return sum(end - first for first, end in chunks) / document_tokens


def planned_chunks(
    chunks: Iterator[Chunk], document_tokens: int, *, coverage: float, per_chunk: int, number: int | None
) -> list[Chunk]:
    """The chunks of all conversations.

    Args:
        chunks: Chunks without end.
        document_tokens: Number of tokens of the document.
        coverage: Coverage that all conversations are to have; without effect if `number` is given.
        per_chunk: Conversations on one chunk.
        number: Number of conversations; `None`: as many as the coverage needs.
    """
    if number is not None:
        return list(islice(chunks, -(-number // per_chunk)))
    planned: list[Chunk] = []
    read = 0
    while read < coverage * document_tokens:
        first, end = next(chunks)
        planned.append((first, end))
        read += per_chunk * (end - first)
    return planned


def coverage_notes(coverage: float, number: int, document_tokens: int) -> list[str]:
    """What to tell the user of a coverage: nothing, or that it is low and what to do.

    Args:
        coverage: Coverage of the conversations.
        number: Number of conversations.
        document_tokens: Number of tokens of the document.
    """
    if coverage >= LEAST_COVERAGE:
        return []
    return [
        f"The {number} conversations cover the document of {document_tokens:,} tokens {coverage:.1f} times; below "
        f"{LEAST_COVERAGE:g}, little of it is learned: raise self_study.coverage or self_study.num_conversations."
    ]
