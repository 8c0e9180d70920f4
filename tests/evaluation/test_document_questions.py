"""Answers to questions about a document, and their measures: tables that were solved by hand."""

import numpy as np
import pytest

from ptl_prefix.data.question_file import Question
from ptl_prefix.evaluation.document_measures import measures, unreadable
from ptl_prefix.evaluation.document_questions import Answer, is_found, most_likely

CHOICE = Question(id="c", question="q", answers=("b",), choices=("a", "b", "c"), correct=1)
FREE = Question(id="f", question="q", answers=("the red house",))
NEEDLE = Question(id="n", question="q", answers=("4812",), kind="needle")
OTHER_NEEDLE = Question(id="o", question="q", answers=("7316",), kind="needle")
QUESTIONS = [CHOICE, CHOICE, FREE, NEEDLE, OTHER_NEEDLE]
ANSWERS = [
    Answer(nats=6.0, num_tokens=2, chosen=1),
    Answer(nats=2.0, num_tokens=2, chosen=0),
    Answer(nats=9.0, num_tokens=4, generated="the red house"),
    Answer(nats=1.0, num_tokens=1, generated="It is 4812."),
    Answer(nats=2.0, num_tokens=1, generated="It is 17316."),
]


def test_a_choice_is_made_by_the_loss_per_token() -> None:
    # 3, 2.25 and 5 nats per token: the second one, although the third has the lowest loss in all.
    assert most_likely(np.array([[6.0, 2.0], [9.0, 4.0], [5.0, 1.0]])) == 1


def test_a_needle_is_found_as_a_whole_word() -> None:
    assert is_found(["4812"], "The code is 4812.")
    assert is_found(["Red house"], "a RED HOUSE")
    assert not is_found(["4812"], "14812, 48120 or 48 12")
    assert is_found(["x", "C++"], "in C++, of course")


def test_the_measures_are_those_worked_out_by_hand() -> None:
    found = {name: one.measured(resamples=200, seed=0) for name, one in measures(QUESTIONS, ANSWERS).items()}

    assert found["answer_loss"].value == pytest.approx(20 / 10)
    assert (found["accuracy"].value, found["accuracy"].num_questions) == (50.0, 2)
    assert (found["needle_found"].value, found["needle_found"].num_questions) == (50.0, 2)
    # Of three answers one is the reference; the others share no word with theirs but the number of one.
    assert found["rougeL"].value == pytest.approx(100 * (1 + 2 * (1 / 3) / (1 / 3 + 1) + 0) / 3)
    assert found["chrf"].num_questions == found["rougeL"].num_questions == 3
    assert found["answer_loss"].low <= found["answer_loss"].value <= found["answer_loss"].high
    assert set(measures([CHOICE], ANSWERS[:1])) == {"answer_loss", "accuracy"}


def test_a_difference_is_paired_by_question() -> None:
    rng = np.random.default_rng(0)
    hard = rng.uniform(10, 100, size=40)
    questions = [FREE] * 40
    base = measures(questions, [Answer(nats=nats, num_tokens=10, generated="a") for nats in hard])
    better = measures(questions, [Answer(nats=nats - 5, num_tokens=10, generated="the red") for nats in hard])

    loss = better["answer_loss"].minus(base["answer_loss"], resamples=300, seed=0)
    chrf = better["chrf"].minus(base["chrf"], resamples=300, seed=0)

    assert (loss.value, loss.low, loss.high) == pytest.approx((-0.5, -0.5, -0.5))
    assert chrf.value == pytest.approx(
        better["chrf"].measured(resamples=1, seed=0).value - base["chrf"].measured(resamples=1, seed=0).value
    )
    assert (
        base["answer_loss"].measured(resamples=300, seed=0).high
        > base["answer_loss"].measured(resamples=300, seed=0).low + 1
    )


def test_a_metric_that_cannot_read_the_references_is_left_out_with_its_reason() -> None:
    chinese = Question(id="z", question="q", answers=("红色的房子",))
    answer = Answer(nats=1.0, num_tokens=1, generated="红色的房子")

    assert set(measures([chinese], [answer])) == {"answer_loss", "chrf"}
    assert list(unreadable([chinese])) == ["rougeL"]
    assert "must be able to read the letters" in unreadable([chinese])["rougeL"]
