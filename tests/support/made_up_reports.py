"""A document's report with made-up numbers."""

from typing import Any

from ptl_prefix.artifacts.document_report import (
    AnswerCost,
    AnswerRecord,
    ConditionReport,
    DocumentReport,
    Measured,
)
from ptl_prefix.artifacts.run_record import MetricInfo

_INFOS = {
    "answer_loss": MetricInfo(scale="nats", direction="minimize", version="1", library="torch"),
    "accuracy": MetricInfo(scale="percent", direction="maximize", version="1", library="ptl_prefix"),
}


def measured(value: float, spread: float = 0.25) -> Measured:
    """A value in the middle of its interval."""
    return Measured(value=value, low=value - spread, high=value + spread, num_questions=4)


def condition(name: str, family: str, rows: int, loss: float, *, base: float | None = 3.0) -> ConditionReport:
    """A condition with two measures; its accuracy is ten times its loss."""
    values = {"answer_loss": measured(loss), "accuracy": measured(10 * loss)}
    return ConditionReport(
        name=name,
        family=family,
        num_rows=rows,
        kv_bytes=rows * 20_000,
        values=values,
        differences={} if base is None else {"answer_loss": measured(loss - base)},
        retention=None,
        cost=None,
        answers=(AnswerRecord(id="1", nats=loss, num_tokens=1, chosen=None, generated="x"),),
    )


def made_up_report(**changes: Any) -> DocumentReport:
    """Two prefixes of different length and their controls."""
    values: dict[str, Any] = {
        "document": "manual.txt",
        "document_sha256": "0" * 64,
        "num_tokens": 2449,
        "questions_sha256": "1" * 64,
        "num_questions": {"needle": 1, "question with choices": 3},
        "backbone": "tiny",
        "backbone_weights": "2" * 64,
        "dtype": "float32",
        "compared_to": "long",
        "metric_info": _INFOS,
        "results": (
            condition("long", "prefix_tuning", 64, 3.0, base=None),
            condition("short", "prefix_tuning", 16, 3.5),
            condition("no context", "no context", 0, 5.0),
            condition("first 16 tokens", "first tokens", 22, 4.5),
            condition("document", "document", 2460, 2.0),
        ),
        "skipped": {"attention matching, 16 rows": "tiny is an encoder-decoder"},
        "environment": {},
    }
    return DocumentReport(**values | changes)


COST = AnswerCost(first_token_s=1.5, first_token_cached_s=0.25, tokens_per_s=12.0)
