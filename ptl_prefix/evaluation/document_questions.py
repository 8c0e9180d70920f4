"""Questions about a document, asked under one condition.

In: a backbone, an `asked` condition and questions. Out: for each question the loss of its reference answers, the choice
whose text is most likely, and a generated answer. All of them are read by the same prompter as in training.

A choice is judged by its log-likelihood as the whole answer, divided by its number of tokens, its end included: without
the division the shortest choice would win. The choices are not shown in the prompt. Questions with choices are not
answered freely, and the reference of such a question is the right choice.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.model_inputs import prompt_batch
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.collation import EncodedRow
from ptl_prefix.data.question_file import Question
from ptl_prefix.evaluation.condition import AskedPrompts
from ptl_prefix.evaluation.metric import Statistics
from ptl_prefix.evaluation.paired_loss import example_losses


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says to one question.

    Args:
        nats: Negative log-likelihood of all reference answers, in nats.
        num_tokens: Number of their tokens, the end of each included.
        chosen: Index of the most likely choice; `None` without choices.
        generated: Generated answer; `None` for a question with choices.
    """

    nats: float
    num_tokens: int
    chosen: int | None = None
    generated: str | None = None


def answer_questions(
    backbone: Backbone,
    prompter: Prompter,
    questions: Sequence[Question],
    prompts: AskedPrompts,
    *,
    decoding: Decoding,
    batch_size: int,
    on_batch: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """Ask every question.

    Args:
        backbone: Frozen model.
        prompter: Encoder of the answers.
        questions: Questions.
        prompts: Their prompts under a condition.
        decoding: Decoding settings of the generated answers.
        batch_size: Answers of one forward pass.
        on_batch: Callback after each batch that was generated, and after all losses.
    """
    losses = _candidate_losses(backbone, prompter, questions, prompts, batch_size=batch_size)
    on_batch()
    generated = _generated(
        backbone, prompter, questions, prompts, decoding=decoding, batch_size=batch_size, on_batch=on_batch
    )
    return [_answer(one, rows, text) for one, rows, text in zip(questions, losses, generated, strict=True)]


def candidates(question: Question) -> tuple[str, ...]:
    """The texts whose likelihood is computed: the choices, or the reference answers."""
    return question.choices or question.answers


def most_likely(losses: Statistics) -> int:
    """The index of the candidate with the lowest loss per token; the first one of several.

    Args:
        losses: Nats and tokens of each candidate.
    """
    return int((losses[:, 0] / losses[:, 1]).argmin())


def _answer(question: Question, losses: Statistics, generated: str | None) -> Answer:
    if question.correct is None:
        nats, num_tokens = losses.sum(axis=0)
        return Answer(nats=float(nats), num_tokens=int(num_tokens), generated=generated)
    nats, num_tokens = losses[question.correct]
    return Answer(nats=float(nats), num_tokens=int(num_tokens), chosen=most_likely(losses))


def _candidate_losses(
    backbone: Backbone,
    prompter: Prompter,
    questions: Sequence[Question],
    prompts: AskedPrompts,
    *,
    batch_size: int,
) -> list[Statistics]:
    """Nats and tokens of each question's candidates."""
    targets = prompter.tokenize_targets([text for one in questions for text in candidates(one)])
    owners = [index for index, one in enumerate(questions) for _ in candidates(one)]
    rows = []
    for number, (owner, target) in enumerate(zip(owners, targets, strict=True)):
        prompt = prompts.prompts[owner]
        ids = prompt + target + prompter.after_ids
        rows.append(EncodedRow(input_ids=ids, num_source_ids=len(prompt), example=number))
    losses = example_losses(backbone, prompts.method, rows, prompter, batch_size=batch_size)
    ends = np.cumsum([len(candidates(one)) for one in questions])[:-1]
    return list(np.split(losses, ends))


def _generated(
    backbone: Backbone,
    prompter: Prompter,
    questions: Sequence[Question],
    prompts: AskedPrompts,
    *,
    decoding: Decoding,
    batch_size: int,
    on_batch: Callable[[], None],
) -> list[str | None]:
    """The generated answer of each question without choices."""
    free = [index for index, one in enumerate(questions) if not one.choices]
    texts: list[str | None] = [None] * len(questions)
    for start in range(0, len(free), batch_size):
        batch = free[start : start + batch_size]
        inputs = prompt_batch([prompts.prompts[index] for index in batch], backbone.padding(prompter))
        with backbone.slots.exclusive():
            conditioned = prompts.method.condition(inputs.to(backbone.device))
            ids = generate(backbone, conditioned, decoding, prompter.stop_ids)
            backbone.slots.clear()
        for index, row in zip(batch, ids, strict=True):
            texts[index] = prompter.decode(row)
        on_batch()
    return texts


def prediction_of(question: Question, answer: Answer) -> Prediction:
    """A generated answer as the metrics read it."""
    assert answer.generated is not None
    return Prediction(
        id=question.id, source=question.question, references=question.answers, hypothesis=answer.generated
    )


def is_found(references: Sequence[str], generated: str) -> bool:
    """Whether a reference is in a generated text as whole words, upper and lower case alike."""
    return any(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", generated, re.IGNORECASE) for one in references)
