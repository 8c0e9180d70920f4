"""Reasons to drop a generated question or answer.

In: a text, and the chunk that it is about. Out: the name of a reason, under which it is counted; `None` if it is kept.
"""

import re
from collections.abc import Set as AbstractSet

from ptl_prefix.distillation.names import name_stems, unsupported_names
from ptl_prefix.distillation.numbers import unsupported_numbers

_WORD = re.compile(r"[\u2e80-\uffff]|[^\W\u2e80-\uffff]+")
"""A word; a character of a script without spaces between its words counts as one."""
_MENTION = re.compile(
    r"\b(?:the|this|that|above|given|following)\s+(?:\w+\s+)?"
    r"(?:text|passage|sentence|paragraph|excerpt|statement|context|document|question|request|author)\b"
)
_LEAST_WORDS = 3
_LOOP = 4
"""Words whose repetition counts."""


def question_problem(
    question: str, chunk: str | None, *, check_numbers: bool, known_names: AbstractSet[str] | None = None
) -> str | None:
    """Why a generated question is dropped.

    Args:
        question: The question.
        chunk: Text that it is about; `None`: not checked against one.
        check_numbers: Whether its numbers must be in the chunk.
        known_names: Stems of the words of the document, which its names must be among; `None`: not checked.

    Returns:
        `empty`: too short to ask for something; `about_text`: it speaks of "the text", which the student does not see
        and the chunk does not speak of; `repetitive`; `numbers`; `names`; or `None`.
    """
    if len(_WORD.findall(question)) < _LEAST_WORDS:
        return "empty"
    if chunk is not None:
        if mentions_text(question, chunk):
            return "about_text"
        if check_numbers and unsupported_numbers(question, [chunk]):
            return "numbers"
        if known_names is not None and unsupported_names(question, known_names):
            return "names"
    return "repetitive" if is_repetitive(question) else None


def answer_problem(
    answer: str, question: str, chunk: str | None, *, check_numbers: bool, known_names: AbstractSet[str] | None = None
) -> str | None:
    """Why an answer is dropped.

    Args:
        answer: The answer.
        question: Its question, whose numbers and names it may repeat.
        chunk: Text that it is from; `None`: not checked against one.
        check_numbers: Whether its numbers must be in the chunk or the question.
        known_names: Stems of the words of the document, which its names must be among, unless the question has them;
            `None`: not checked.

    Returns:
        `empty`: less than a third of it are letters or digits; `echo`: it is the question; `repetitive`; `about_text`;
        `numbers`; `names`; or `None`.
    """
    if not answer or 3 * sum(map(str.isalnum, answer)) < len("".join(answer.split())):  # such as an empty table
        return "empty"
    if normalized(answer) == normalized(question):
        return "echo"
    if is_repetitive(answer):
        return "repetitive"
    if chunk is not None and mentions_text(answer, chunk):
        return "about_text"
    if chunk is not None and check_numbers and unsupported_numbers(answer, [chunk, question]):
        return "numbers"
    if chunk is not None and known_names is not None:
        return "names" if unsupported_names(answer, known_names | name_stems(question)) else None
    return None


def mentions_text(text: str, chunk: str) -> bool:
    """Whether a text speaks of "the text" or "this passage", and the chunk does not say so itself."""
    return any(match[0] not in chunk.casefold() for match in _MENTION.finditer(text.casefold()))


def normalized(text: str) -> str:
    """The words of a text alone: two questions with the same ones are one."""
    return " ".join(_WORD.findall(text.casefold()))


def is_repetitive(text: str) -> bool:
    """Whether a quarter of a text's runs of four words have occurred before, as in the loops of small models."""
    words = _WORD.findall(text.casefold())
    runs = [tuple(words[start : start + _LOOP]) for start in range(len(words) - _LOOP + 1)]
    return len(runs) - len(set(runs)) > len(runs) / 4
