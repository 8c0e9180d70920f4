"""Questions and answers that are dropped, and why."""

import pytest

from ptl_prefix.distillation.filters import answer_problem, normalized, question_problem
from ptl_prefix.distillation.names import name_stems

CHUNK = "The mill was built in 1820. The text on its door says: no smoking."


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("When was the mill built?", None),
        ("What was built in 1820?", None),
        ("What was built in 1830?", "numbers"),
        ("What?", "empty"),
        ("?!", "empty"),
        ("水车是什么时候建的？", None),
        ("What does this passage say of the mill?", "about_text"),
        ("How would the last sentence help me?", "about_text"),
        ("What does the text on its door say?", None),
        ("What is the mill and what is the mill and what is the mill?", "repetitive"),
    ],
)
def test_a_question(question: str, expected: str | None) -> None:
    assert question_problem(question, CHUNK, check_numbers=True) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("In 1820.", None),
        ("In 1821.", "numbers"),
        ("It was after 1700.", None),
        ("", "empty"),
        ("...", "empty"),
        ("Wheel:\n\n| | |\n|---|---|\n| | |", "empty"),
        ("| oak | wheel |", None),
        ("was the mill built after 1700?", "echo"),
        ("It is old. It is old. It is old. It is old.", "repetitive"),
    ],
)
def test_an_answer(answer: str, expected: str | None) -> None:
    assert answer_problem(answer, "Was the mill built after 1700?", CHUNK, check_numbers=True) == expected


def test_names_are_those_of_the_document_or_the_question() -> None:
    known = name_stems("The mill of Turner. " + CHUNK)

    def answered(answer: str, chunk: str | None = CHUNK) -> str | None:
        return answer_problem(answer, "Who knew Anna?", chunk, check_numbers=True, known_names=known)

    assert answered("It was old Turner, and Anna.") is None
    assert answered("It was old Smith.") == "names"
    assert answered("It was old Smith.", None) is None
    assert question_problem("What did Smith build?", CHUNK, check_numbers=True, known_names=known) == "names"
    assert question_problem("What did Smith build?", CHUNK, check_numbers=True) is None


def test_numbers_are_kept_where_they_are_not_checked_or_nothing_is_read() -> None:
    assert answer_problem("In 1821.", "When?", CHUNK, check_numbers=False) is None
    assert question_problem("What was built in 1830?", CHUNK, check_numbers=False) is None
    assert answer_problem("In 1821.", "When?", None, check_numbers=True) is None


def test_two_questions_with_the_same_words_are_one() -> None:
    assert normalized("What is  the Mill?") == normalized("what is the mill")
    assert normalized("What is the mill?") != normalized("Who is the miller?")
