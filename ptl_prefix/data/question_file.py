"""Questions about a document, from a file of the user.

In: JSON lines, one question each, or a file in the layout of QuALITY (Pang et al., 2022), whose lines each hold an
article and its questions. Out: `Question`s, and the texts of the articles that the file itself holds. All mistakes of a
file are told at once, each with its line.

Questions are asked, and never trained on: no training reads this file.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.json_document import DocumentError, parse_object, shortened
from ptl_prefix.data.text_lines import TextFormat, numbered_lines
from ptl_prefix.errors import DataError

NEEDLE = "needle"
"""The kind of a question whose answer is one sentence of a long text, looked for in what is generated."""
_KEYS = ("id", "document", "question", "answer", "answers", "choices", "correct", "kind")
_MOST_CHOICES = 64
_MOST_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about a document.

    Args:
        id: Name of the question, unique in its file.
        question: The question, as a person would ask it.
        answers: Reference answers, at least one; of a multiple-choice question, the right choice.
        choices: Texts of which one is right; empty for a question that is answered freely.
        correct: Index of the right choice, from 0; `None` without choices.
        kind: Kind of the question, such as `needle`; kinds are counted in the report.
        document: Name of the document that it is about; `None` where a file is about one document.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    correct: int | None = None
    kind: str = "question"
    document: str | None = None


@dataclass(frozen=True, kw_only=True)
class QuestionFile:
    """The questions of a file.

    Args:
        questions: The questions, in the file's order.
        articles: Texts of documents that the file holds, by name; empty unless the file is in QuALITY's layout.
    """

    questions: tuple[Question, ...]
    articles: Mapping[str, str] = field(default_factory=dict)


def read_questions(path: str | Path) -> QuestionFile:
    """Read a file of questions.

    Raises:
        DataError: The file cannot be read, has no questions, or some are malformed; the message names the lines.
    """
    path = Path(path)
    try:
        lines = list(numbered_lines(path, TextFormat()))
    except OSError as error:
        raise DataError(
            f"A file of questions must be readable, but {path} is not ({error.strerror}); correct the path."
        ) from error
    reader = _Reader()
    for number, line in lines:
        if line.strip():
            reader.read(number, line)
    if reader.mistakes:
        raise DataError(_told(path, reader.mistakes))
    if not reader.questions:
        raise DataError(f"A file of questions must hold one question per line, but {path} is empty; add some.")
    return QuestionFile(questions=tuple(reader.questions), articles=reader.articles)


def write_questions(path: str | Path, questions: Sequence[Question]) -> None:
    """Write a file of questions, in this project's layout, atomically."""
    write_atomically(path, "".join(json.dumps(_values(one), ensure_ascii=False) + "\n" for one in questions))


def _values(question: Question) -> dict[str, Any]:
    """The keys of a question that hold something."""
    values: dict[str, Any] = {"id": question.id, "document": question.document, "kind": question.kind}
    values |= {"question": question.question, "answers": list(question.answers)}
    values |= {"choices": list(question.choices), "correct": question.correct} if question.choices else {}
    return {key: value for key, value in values.items() if value is not None}


def _told(path: Path, mistakes: Sequence[str]) -> str:
    shown = [f"  - {mistake}" for mistake in mistakes[:_MOST_SHOWN]]
    if len(mistakes) > _MOST_SHOWN:
        shown.append(f"  - and {len(mistakes) - _MOST_SHOWN} more")
    noun = "mistake" if len(mistakes) == 1 else "mistakes"
    return "\n".join([f"The questions in {path} have {len(mistakes)} {noun}; correct these lines:", *shown])


class _Reader:
    """Collects the questions of one file, and what is wrong with it."""

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.articles: dict[str, str] = {}
        self.mistakes: list[str] = []
        self._lines: dict[str, int] = {}

    def read(self, number: int, line: str) -> None:
        """Read one line: a question, or an article with its questions."""
        try:
            values = parse_object(line)
        except DocumentError as error:
            self.mistakes.append(f"line {number}: each line must be one JSON object, but this one {error}.")
            return
        own = [f"line {number}: {mistake}" for mistake in self._read(number, values)]
        self.mistakes += own

    def _read(self, number: int, values: dict[str, Any]) -> list[str]:
        if "article" not in values:
            return self._add(number, _own_layout(values, f"line {number}"))
        document, mistakes = str(values.get("article_id", number)), []
        article, listed = values["article"], values.get("questions")
        if not (_is_text(article) and isinstance(listed, list) and all(isinstance(one, dict) for one in listed)):
            return ["an `article` must be text, and its `questions` a list of objects; correct the line."]
        self.articles[document] = article
        for place, one in enumerate(listed, start=1):
            found = self._add(number, _quality_layout(one, document, f"{document}-{number}-{place}"))
            mistakes += [f"question {place}: {mistake}" for mistake in found]
        return mistakes

    def _add(self, number: int, found: Question | list[str]) -> list[str]:
        if isinstance(found, list):
            return found
        if found.id in self._lines:
            return [f"each `id` must be unique, but {shortened(found.id)} is also in line {self._lines[found.id]}."]
        self._lines[found.id] = number
        self.questions.append(found)
        return []


def _own_layout(values: dict[str, Any], place: str) -> Question | list[str]:
    """A question in this project's layout, or its mistakes."""
    choices, correct = values.get("choices", []), values.get("correct")
    mistakes = [f"`{key}` is not a key of a question; the keys are {', '.join(_KEYS)}." for key in {*values} - {*_KEYS}]
    mistakes += _text_mistakes(values, required=("question",), optional=("id", "document", "answer", "kind"))
    mistakes += _list_mistakes(values, ("answers", "choices"))
    if mistakes:
        return sorted(mistakes)
    if mistakes := _choice_mistakes(choices, correct):
        return mistakes
    given = [values["answer"]] if "answer" in values else []
    answers = given or [choices[correct]] if choices else given
    answers += [answer for answer in values.get("answers", []) if answer not in answers]
    if choices and choices[correct] not in answers:
        return ["the `answer` of a question with choices must be the correct one, or be left out, but is another text."]
    if not answers:
        return ["a question must have a reference `answer`, or `choices` with the index of the `correct` one; add one."]
    return Question(
        id=values.get("id", place),
        question=values["question"],
        answers=tuple(answers),
        choices=tuple(choices),
        correct=correct,
        kind=values.get("kind", "question"),
        document=values.get("document"),
    )


def _quality_layout(values: dict[str, Any], document: str, place: str) -> Question | list[str]:
    """A question of QuALITY, whose labels count from 1, or its mistakes; the keys that are not read here are many."""
    options, label = values.get("options", []), values.get("gold_label")
    mistakes = _text_mistakes(values, required=("question",), optional=("question_unique_id",))
    mistakes += _list_mistakes(values, ("options",))
    if mistakes:
        return mistakes
    if label is None:
        return ["a question must have a `gold_label`, but has none (is it of the test split, which has no labels?)."]
    if mistakes := _choice_mistakes(options, label, names=("options", "gold_label"), first=1):
        return mistakes
    correct = label - 1
    return Question(
        id=values.get("question_unique_id", place),
        question=values["question"],
        answers=(options[correct],),
        choices=tuple(options),
        correct=correct,
        document=document,
    )


def _choice_mistakes(
    choices: Sequence[str], label: Any, *, names: tuple[str, str] = ("choices", "correct"), first: int = 0
) -> list[str]:
    """What is wrong with choices and the label of the right one; labels count from `first`."""
    listed, name = names
    if not choices:
        return [] if label is None else [f"`{name}` must be left out without `{listed}`, but is {label!r}."]
    last = len(choices) - 1 + first
    if not isinstance(label, int) or isinstance(label, bool) or not first <= label <= last:
        return [f"`{name}` must be the index of one of the `{listed}`, {first} to {last}, but is {shortened(label)}."]
    if not 2 <= len(choices) <= _MOST_CHOICES or len(set(choices)) < len(choices):
        return [f"`{listed}` must be 2 to {_MOST_CHOICES} different texts, but are {shortened(list(choices))}."]
    return []


def _text_mistakes(values: Mapping[str, Any], *, required: Sequence[str], optional: Sequence[str]) -> list[str]:
    found = [f"a question must have `{key}`, but has {', '.join(values) or 'nothing'}." for key in required]
    mistakes = [mistake for key, mistake in zip(required, found, strict=True) if key not in values]
    given = [key for key in (*required, *optional) if key in values]
    return mistakes + _mistakes(values, given, _is_text, "text, and not empty")


def _list_mistakes(values: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    given = [key for key in keys if key in values]
    return _mistakes(values, given, _are_texts, "a list of texts, none of them empty")


def _mistakes(values: Mapping[str, Any], keys: Sequence[str], fits: Callable[[Any], bool], law: str) -> list[str]:
    return [f"`{key}` must be {law}, but is {shortened(values[key])}." for key in keys if not fits(values[key])]


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
