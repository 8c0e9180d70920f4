"""What answers to questions about a document are worth, and how two conditions differ on the same questions.

In: questions and a condition's answers. Out: measures, each a table of statistics with one row per question and a
function from their total to the value, so that values, intervals and paired differences come from the same rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ptl_prefix.artifacts.document_report import Measured
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.data.question_file import NEEDLE, Question
from ptl_prefix.evaluation.bootstrap import bootstrap_interval
from ptl_prefix.evaluation.document_questions import Answer, is_found, prediction_of
from ptl_prefix.evaluation.metric import MetricNotApplicableError, Statistics, UnseenLettersError, load_metric
from ptl_prefix.evaluation.unseen_letters import require_seen_letters

ANSWER_LOSS, ACCURACY, NEEDLE_FOUND = "answer_loss", "accuracy", "needle_found"
_OF_GENERATED = ("chrf", "rougeL")
_OWN_INFOS = {
    ANSWER_LOSS: MetricInfo(
        scale="nats per token of the reference answers",
        direction="minimize",
        version="1",
        library=f"torch {torch.__version__}",
    ),
    ACCURACY: MetricInfo(
        scale="percent of the questions with choices", direction="maximize", version="1", library="ptl_prefix"
    ),
    NEEDLE_FOUND: MetricInfo(
        scale="percent of the needle questions", direction="maximize", version="1", library="ptl_prefix"
    ),
}


@dataclass(frozen=True)
class Measure:
    """One measure of a condition.

    Args:
        info: Scale and direction.
        rows: Statistics, a row for each question that the measure is of.
        value: Function from the total of some rows to the value.
    """

    info: MetricInfo
    rows: Statistics
    value: Callable[[Statistics], float]

    def measured(self, *, resamples: int, seed: int) -> Measured:
        """The value with its interval."""
        return _measured(self.rows, self.value, resamples=resamples, seed=seed)

    def minus(self, other: "Measure", *, resamples: int, seed: int) -> Measured:
        """The difference to the same measure of another condition, paired by question."""
        width = self.rows.shape[1]
        pairs = np.hstack([self.rows, other.rows])
        return _measured(
            pairs,
            lambda total: self.value(total[:width]) - other.value(total[width:]),
            resamples=resamples,
            seed=seed,
        )


def _measured(rows: Statistics, value: Callable[[Statistics], float], *, resamples: int, seed: int) -> Measured:
    low, high = bootstrap_interval(rows, value, resamples=resamples, seed=seed)
    return Measured(value=value(rows.sum(axis=0)), low=low, high=high, num_questions=len(rows))


def measures(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, Measure]:
    """The measures that the questions allow, by name."""
    both = list(zip(questions, answers, strict=True))
    losses = np.array([(one.nats, one.num_tokens) for one in answers], dtype=np.float64)
    found = {ANSWER_LOSS: Measure(_OWN_INFOS[ANSWER_LOSS], losses, lambda total: float(total[0] / total[1]))}
    chosen = [answer.chosen == question.correct for question, answer in both if question.choices]
    needles = [
        is_found(question.answers, answer.generated)
        for question, answer in both
        if question.kind == NEEDLE and answer.generated is not None
    ]
    found |= {name: _share(name, hits) for name, hits in ((ACCURACY, chosen), (NEEDLE_FOUND, needles)) if hits}
    return found | _of_generated(both)


def unreadable(questions: Sequence[Question]) -> dict[str, str]:
    """The reason for each measure of generated answers that cannot read the script of the references."""
    reasons = {}
    predictions = [prediction_of(one, Answer(nats=0, num_tokens=1, generated="")) for one in _free(questions)]
    for name in _OF_GENERATED:
        try:
            require_seen_letters(name, load_metric(name), predictions)
        except (UnseenLettersError, MetricNotApplicableError) as error:
            reasons[name] = str(error)
    return reasons


def _free(questions: Sequence[Question]) -> list[Question]:
    return [one for one in questions if not one.choices]


def _of_generated(both: Sequence[tuple[Question, Answer]]) -> dict[str, Measure]:
    predictions = [prediction_of(question, answer) for question, answer in both if not question.choices]
    if not predictions:
        return {}
    without = unreadable([question for question, _ in both])
    metrics = {name: load_metric(name) for name in _OF_GENERATED if name not in without}
    return {name: Measure(one.info, one.statistics(predictions), one.value) for name, one in metrics.items()}


def _share(name: str, hits: Sequence[bool]) -> Measure:
    rows = np.array([(float(hit), 1.0) for hit in hits])
    return Measure(_OWN_INFOS[name], rows, lambda total: float(100 * total[0] / total[1]))
