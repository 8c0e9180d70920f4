"""The needle test: facts at the depths that were asked for, each with one question."""

from pathlib import Path

import pytest

from ptl_prefix.data.question_file import read_questions
from ptl_prefix.evaluation.needle import needle_test


def test_each_needle_is_at_its_depth_and_has_its_question(tmp_path: Path) -> None:
    depths = (0.5, 0.0, 1.0, 0.25)
    test = needle_test(num_sentences=80, depths=depths, seed=3)

    sentences = test.document.replace("\n\n", " ").strip().split(". ")
    for question, depth in zip(test.questions, depths, strict=True):
        (code,) = question.answers
        (place,) = [index for index, one in enumerate(sentences) if code in one]
        assert place / (len(sentences) - 1) == pytest.approx(depth, abs=0.03)
        safe = question.question.removeprefix("What is the code of the safe in ").removesuffix("?")
        assert sentences[place].rstrip(".") == f"The code of the safe in {safe} is {code}"
        assert question.kind == "needle"
    assert len(sentences) == 84

    test.write(tmp_path)
    assert read_questions(tmp_path / "questions.jsonl").questions == test.questions
    assert (tmp_path / "document.txt").read_text() == test.document
    assert needle_test(num_sentences=80, depths=depths, seed=3) == test
    assert needle_test(num_sentences=80, depths=depths, seed=4).document != test.document


def test_impossible_depths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`depths` must be 1 to 10 numbers from 0 to 1, but are \[1.5\]"):
        needle_test(num_sentences=10, depths=(1.5,))
    with pytest.raises(ValueError, match="`num_sentences` must be >= 1, but is 0"):
        needle_test(num_sentences=0)
