"""A prefix of a document beside its controls: the same questions under every condition.

In: a backbone, a document, questions and conditions. Out: `DocumentReport`: values of each condition with intervals
over the questions, their paired differences to one of the conditions, memory, and times if they are wanted. A condition
that cannot be measured on the backbone is skipped, with its reason.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.document_report import AnswerCost, AnswerRecord, ConditionReport, DocumentReport, Measured
from ptl_prefix.artifacts.document_text import text_sha256
from ptl_prefix.artifacts.fingerprint import environment
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import prompt_batch
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.question_file import Question
from ptl_prefix.evaluation.answer_cost import TimedPrompt, measure_costs
from ptl_prefix.evaluation.condition import (
    AskedPrompts,
    Condition,
    ConditionUnmeasurableError,
    asked,
    document_ids,
    encoded_prompts,
)
from ptl_prefix.evaluation.document_measures import Measure, measures, unreadable
from ptl_prefix.evaluation.document_questions import Answer, answer_questions, candidates
from ptl_prefix.evaluation.retention import RetentionText, RetentionUnmeasurableError, measure_retention
from ptl_prefix.methods.no_adaptation import NoAdaptation

OnCondition = Callable[[str, int, int], None]
"""A callback that receives the name of a condition that begins, its number from 1, and the number of all."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """The document that is asked about.

    Args:
        name: Name in the report.
        text: Its text.
    """

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class AskSettings:
    """How questions are asked, the same for every condition.

    Args:
        decoding: Decoding settings of generated answers.
        batch_size: Answers of one forward pass.
        resamples: Number of bootstrap resamples over the questions.
        resample_seed: Seed of the resamples.
        cost_rounds: Number of rounds in which times are measured; 0 measures none.
        retention: Text that is not the document's, whose loss is measured under each condition; `None` measures none.
    """

    decoding: Decoding
    batch_size: int
    resamples: int
    resample_seed: int
    cost_rounds: int = 0
    retention: RetentionText | None = None


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What was found under one condition."""

    condition: Condition
    num_rows: int
    kv_bytes: int
    answers: list[Answer]
    measures: dict[str, Measure]
    retention: float | None


def evaluate_document(
    backbone: Backbone,
    document: Document,
    questions: Sequence[Question],
    conditions: Sequence[Condition],
    *,
    prompter: Prompter,
    settings: AskSettings,
    compared_to: str | None = None,
    on_condition: OnCondition = lambda name, number, total: None,
) -> DocumentReport:
    """Ask every question under every condition.

    Args:
        backbone: Frozen model.
        document: Document that the questions are about.
        questions: Questions, at least one; none of them may have been trained on.
        conditions: Conditions with different names; see `control_conditions` and `method_condition`.
        prompter: Encoder of questions and answers: that of the bundle, where there is one.
        settings: How questions are asked.
        compared_to: Name of the condition that the others are compared with; `None` is the first one with a method,
            and no comparison without one.
        on_condition: Callback at the start of each condition.

    Raises:
        DataError: The chat template refuses a question.
    """
    outcomes, skipped, costs = _outcomes(backbone, questions, conditions, prompter, settings, on_condition)
    base = _base(compared_to, outcomes)
    infos: dict[str, MetricInfo] = {name: one.info for found in outcomes for name, one in found.measures.items()}
    counts = Counter(one.kind + (" with choices" if one.choices else "") for one in questions)
    return DocumentReport(
        document=document.name,
        document_sha256=text_sha256(document.text),
        num_tokens=len(document_ids(backbone, document.text)),
        questions_sha256=_hash_of(questions),
        num_questions=dict(sorted(counts.items())),
        backbone=backbone.name,
        backbone_weights=backbone.identity.weights_fingerprint,
        dtype=backbone.precision,
        compared_to=None if base is None else base.condition.name,
        metric_info=infos,
        results=tuple(_report(one, base, questions, settings, costs.get(one.condition.name)) for one in outcomes),
        skipped=skipped | unreadable(questions) if any(not one.choices for one in questions) else skipped,
        environment=environment(),
    )


def _outcomes(
    backbone: Backbone,
    questions: Sequence[Question],
    conditions: Sequence[Condition],
    prompter: Prompter,
    settings: AskSettings,
    on_condition: OnCondition,
) -> tuple[list[_Outcome], dict[str, str], dict[str, AnswerCost]]:
    """The outcome of each condition, the reasons of those that were skipped, and the costs."""
    texts = [one.question for one in questions]
    num_written = _num_written(prompter, questions, settings.decoding)
    found: list[_Outcome] = []
    skipped: dict[str, str] = {}
    timed: dict[str, TimedPrompt] = {}
    with ExitStack() as all_conditions:
        bare = NoAdaptation().attach(backbone)
        for number, condition in enumerate(conditions, start=1):
            on_condition(condition.name, number, len(conditions))
            with ExitStack() as opened:
                try:
                    prompts = opened.enter_context(asked(condition, backbone, prompter, texts, num_written=num_written))
                except ConditionUnmeasurableError as error:
                    skipped[condition.name] = str(error)
                    continue
                found.append(_outcome(backbone, questions, condition, prompts, prompter, settings))
                if settings.cost_rounds:
                    (whole,) = encoded_prompts(prompter, texts[:1], condition.context)
                    reader = bare if prompts.num_shared else prompts.method
                    timed[condition.name] = TimedPrompt(prompts.method, prompts.prompts[0], reader, whole)
                    # Times are measured in turn: what a condition holds stays until then.
                    all_conditions.push(opened.pop_all())
        costs = measure_costs(backbone, prompter, timed, rounds=settings.cost_rounds) if timed else {}
    return found, skipped, costs


def _outcome(
    backbone: Backbone,
    questions: Sequence[Question],
    condition: Condition,
    prompts: AskedPrompts,
    prompter: Prompter,
    settings: AskSettings,
) -> _Outcome:
    answers = answer_questions(
        backbone, prompter, questions, prompts, decoding=settings.decoding, batch_size=settings.batch_size
    )
    num_rows, kv_bytes = _held(backbone, prompter, condition, prompts)
    return _Outcome(
        condition=condition,
        num_rows=num_rows,
        kv_bytes=kv_bytes,
        answers=answers,
        measures=measures(questions, answers),
        retention=_retention(backbone, prompts, settings),
    )


def _held(backbone: Backbone, prompter: Prompter, condition: Condition, prompts: AskedPrompts) -> tuple[int, int]:
    """The rows in front of each question in the layer that has most, and the bytes of all of them."""
    inputs = prompt_batch(prompts.prompts[:1], backbone.padding(prompter)).to(backbone.device)
    prompts.method.condition(inputs)
    layers = [layer for layers in backbone.slots.filled().values() for layer in layers if layer is not None]
    backbone.slots.clear()
    if not layers and condition.context is not None:
        # Read with each question: a text attends to so many keys and values of the context, where it sees all of it.
        site = backbone.geometry["decoder_cross" if backbone.is_encoder_decoder else "decoder_self"]
        num_rows = len(document_ids(backbone, condition.context))
        return num_rows, 2 * site.num_layers * site.kv_width * num_rows * backbone.dtype.itemsize
    num_bytes = sum(tensor.numel() * tensor.element_size() for layer in layers for tensor in (layer.key, layer.value))
    return max((layer.length for layer in layers), default=0), num_bytes


def _retention(backbone: Backbone, prompts: AskedPrompts, settings: AskSettings) -> float | None:
    if settings.retention is None:
        return None
    try:
        return measure_retention(backbone, prompts.method, settings.retention, batch_size=settings.batch_size)
    except RetentionUnmeasurableError:
        return None


def _num_written(prompter: Prompter, questions: Sequence[Question], decoding: Decoding) -> int:
    """The most tokens that follow a prompt."""
    targets = prompter.tokenize_targets([text for one in questions for text in candidates(one)])
    longest = max(map(len, targets)) + len(prompter.after_ids)
    return max(longest, decoding.max_new_tokens) if any(not one.choices for one in questions) else longest


def _base(compared_to: str | None, outcomes: Sequence[_Outcome]) -> _Outcome | None:
    """The outcome that the others are compared with."""
    return next(
        (
            one
            for one in outcomes
            if (one.condition.method is not None if compared_to is None else one.condition.name == compared_to)
        ),
        None,
    )


def _report(
    outcome: _Outcome,
    base: _Outcome | None,
    questions: Sequence[Question],
    settings: AskSettings,
    cost: AnswerCost | None,
) -> ConditionReport:
    drawn: dict[str, Any] = {"resamples": settings.resamples, "seed": settings.resample_seed}
    differences: dict[str, Measured] = {}
    if base is not None and base is not outcome:
        differences = {name: one.minus(base.measures[name], **drawn) for name, one in outcome.measures.items()}
    both = zip(questions, outcome.answers, strict=True)
    return ConditionReport(
        name=outcome.condition.name,
        family=outcome.condition.family,
        num_rows=outcome.num_rows,
        kv_bytes=outcome.kv_bytes,
        values={name: one.measured(**drawn) for name, one in outcome.measures.items()},
        differences=differences,
        retention=outcome.retention,
        cost=cost,
        answers=tuple(AnswerRecord(id=question.id, **vars(answer)) for question, answer in both),
    )


def _hash_of(questions: Sequence[Question]) -> str:
    parts = [(one.question, one.answers, one.choices, one.correct, one.kind) for one in questions]
    return hashlib.sha256(repr(parts).encode()).hexdigest()
