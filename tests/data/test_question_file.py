"""Questions about a document, from a user's file."""

import json
from pathlib import Path
from typing import Any

import pytest

from ptl_prefix.data.question_file import Question, read_questions, write_questions
from ptl_prefix.errors import DataError


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "questions.jsonl"
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def test_questions_with_and_without_choices_are_read(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"question": "Where?", "answer": "here", "answers": ["there", "here"], "document": "a"},
        "",
        {"id": "two", "question": "Which?", "choices": ["x", "y"], "correct": 1, "kind": "needle", "document": "b"},
    )

    file = read_questions(path)

    first, second = file.questions
    assert first == Question(id="line 1", question="Where?", answers=("here", "there"), document="a")
    assert second == Question(
        id="two", question="Which?", answers=("y",), choices=("x", "y"), correct=1, kind="needle", document="b"
    )

    write_questions(path, file.questions)
    assert read_questions(path).questions == file.questions


def test_all_mistakes_of_a_file_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    good = {"id": "a", "question": "q", "answer": "r"}
    damaged = {
        2: ("{", "each line must be one JSON object"),
        3: ({"answer": "r"}, "a question must have `question`, but has answer."),
        4: ({"question": "q"}, "a question must have a reference `answer`, or `choices`"),
        5: ({"question": " ", "answer": "r"}, "`question` must be text, and not empty, but is ' '."),
        6: ({**good, "id": "b", "hint": 1}, "`hint` is not a key of a question"),
        7: ({"question": "q", "choices": ["x", "y"], "correct": 2}, "the `choices`, 0 to 1, but is 2."),
        8: ({"question": "q", "choices": ["x", "y"], "correct": True}, "the `choices`, 0 to 1, but is True."),
        9: ({"question": "q", "choices": ["x", "x"], "correct": 0}, "`choices` must be 2 to 64 different texts"),
        10: ({**good, "id": "c", "correct": 0}, "`correct` must be left out without `choices`, but is 0."),
        11: ({**good, "choices": ["x", "y"], "correct": 0}, "must be the correct one, or be left out"),
        12: (good, "each `id` must be unique, but 'a' is also in line 1."),
        13: ({**good, "id": "d", "answers": "r"}, "`answers` must be a list of texts"),
        14: ({"article": "text", "questions": ["q"]}, "an `article` must be text, and its `questions` a list"),
    }

    with pytest.raises(DataError) as error:
        read_questions(written(tmp_path, good, *(line for line, _ in damaged.values())))

    told = str(error.value).splitlines()
    assert told[0].endswith("have 13 mistakes; correct these lines:")
    for line, (number, (_, fact)) in zip(told[1:], damaged.items(), strict=True):
        assert line.startswith(f"  - line {number}: "), line
        assert fact in line


def test_the_layout_of_quality_is_read_with_its_articles(tmp_path: Path) -> None:
    one = {"question": "Who?", "options": ["he", "she"], "gold_label": 2, "difficult": 1}
    path = written(
        tmp_path,
        {"article_id": "77", "set_unique_id": "77_A", "title": "T", "article": "He met her.", "questions": [one, one]},
        {"article_id": "78", "article": "x", "questions": [{**one, "question_unique_id": "78_1"}]},
    )

    file = read_questions(path)

    assert file.articles == {"77": "He met her.", "78": "x"}
    assert [question.id for question in file.questions] == ["77-1-1", "77-1-2", "78_1"]
    assert [question.document for question in file.questions] == ["77", "77", "78"]
    assert [(question.correct, question.answers) for question in file.questions] == [(1, ("she",))] * 3

    # Labels count from 1; those of the test split are missing.
    unlabelled = {"question": "Who?", "options": ["he", "she"]}
    with pytest.raises(DataError) as error:
        read_questions(written(tmp_path, {"article": "x", "questions": [unlabelled, {**one, "gold_label": 0}]}))
    assert "line 1: question 1: a question must have a `gold_label`" in str(error.value)
    assert "line 1: question 2: `gold_label` must be the index of one of the `options`, 1 to 2" in str(error.value)


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one question per line, but .* is empty"):
        read_questions(written(tmp_path, "", " "))
    with pytest.raises(DataError, match=r"must be readable, but .* is not"):
        read_questions(tmp_path / "missing.jsonl")
