"""The result of asking questions about a document under several conditions: `document.json`.

In: a `DocumentReport`. Out: the same, for tables and figures. It is written atomically, and reading refuses unknown
keys and wrong types.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge
from pydantic import ConfigDict

from ptl_prefix.artifacts.document_file import DocumentFile
from ptl_prefix.artifacts.json_document import STRICT
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.errors import DataError

SCHEMA_VERSION = 1
REPORT_FILE = "document.json"
FIGURE_FILE = "document.png"

NO_CONTEXT, FIRST_TOKENS, ATTENTION_MATCHING, WHOLE_DOCUMENT = (
    "no context",
    "first tokens",
    "attention matching",
    "document",
)
"""Families of conditions; that of a bundle is its method's kind."""

Count = Annotated[int, Ge(0)]
Amount = Annotated[float, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A value over some questions, or the difference of two values over the same questions.

    Args:
        value: The value.
        low: Lower end of the 95% bootstrap interval over the questions.
        high: Upper end of the interval.
        num_questions: Number of questions that it is of.
    """

    value: float
    low: float
    high: float
    num_questions: Count


@dataclass(frozen=True, kw_only=True)
class AnswerCost:
    """What an answer to one question takes, as medians over rounds in which the conditions take turns.

    Args:
        first_token_s: Seconds until the first token, when the whole prompt is read, its context included.
        first_token_cached_s: Seconds until the first token, when keys and values of the context are at hand, as those
            of a prefix always are.
        tokens_per_s: Tokens per second after the first.
    """

    first_token_s: Amount
    first_token_cached_s: Amount
    tokens_per_s: Amount


@dataclass(frozen=True, kw_only=True)
class AnswerRecord:
    """What was answered to one question.

    Args:
        id: Id of the question.
        nats: Negative log-likelihood of its reference answers, in nats.
        num_tokens: Number of their tokens, ends included.
        chosen: Index of the most likely choice; `None` without choices.
        generated: Generated answer; `None` with choices.
    """

    id: str
    nats: Amount
    num_tokens: Count
    chosen: Count | None
    generated: str | None


@dataclass(frozen=True, kw_only=True)
class ConditionReport:
    """The answers under one condition.

    Args:
        name: Name of the condition.
        family: What the condition is, without its size: the conditions of one family are one line of the figure.
        num_rows: Number of rows of keys and values in front of each question, in the layer that has most.
        kv_bytes: Memory of these keys and values in all layers, in bytes.
        values: Values by measure.
        differences: The values minus those of `compared_to`, over the same questions; empty for that condition itself.
        retention: Loss on text that is not the document's, in nats per token, with the same rows in front of it;
            `None` if it was not measured.
        cost: Time of an answer; `None` if it was not measured.
        answers: Answers in the order of the questions.
    """

    name: str
    family: str
    num_rows: Count
    kv_bytes: Count
    values: dict[str, Measured]
    differences: dict[str, Measured]
    retention: float | None
    cost: AnswerCost | None
    answers: tuple[AnswerRecord, ...]


@dataclass(frozen=True, kw_only=True)
class RefusedTexts:
    """How many of some texts a relevance gate refused.

    Args:
        refused: Number of refused texts.
        of: Number of all texts.
    """

    refused: Count
    of: Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class RelevanceGate:
    """How a router's gate treats questions, by what a bundle says of its training inputs.

    Args:
        wrong_refusals: Rate at which texts of the bundle may be refused.
        own: Refused questions about the document: wrong refusals.
        foreign: Refused foreign texts: right refusals.
    """

    wrong_refusals: float
    own: RefusedTexts
    foreign: RefusedTexts


@dataclass(frozen=True, kw_only=True)
class DocumentReport:
    """Questions about one document under several conditions.

    Args:
        schema_version: Version of this report's format.
        document: Name of the document.
        document_sha256: Hash of its text.
        num_tokens: Number of its tokens.
        questions_sha256: Hash of the questions, their choices and reference answers.
        num_questions: Number of questions by kind; those with choices are `<kind> with choices`.
        backbone: Name of the backbone.
        backbone_weights: Fingerprint of its weights.
        dtype: Dtype of the computation, and the quantisation of the matrices if there was one.
        compared_to: Name of the condition that the differences are to; `None` if there are none.
        metric_info: Description of each measure.
        results: The conditions, in the order in which they were given.
        skipped: Reason for each condition, and each measure, that was not computed.
        gate: Relevance gate; `None` if it was not measured.
        environment: Machine and software, as from `fingerprint.environment`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    schema_version: int = SCHEMA_VERSION
    document: str
    document_sha256: str
    num_tokens: Count
    questions_sha256: str
    num_questions: dict[str, Count]
    backbone: str
    backbone_weights: str
    dtype: str
    compared_to: str | None
    metric_info: dict[str, MetricInfo]
    results: tuple[ConditionReport, ...]
    skipped: dict[str, str]
    gate: RelevanceGate | None = None
    environment: dict[str, Any]

    def result(self, name: str) -> ConditionReport:
        """The result of a condition by its name.

        Raises:
            KeyError: There is none of that name.
        """
        return {one.name: one for one in self.results}[name]


_FILE = DocumentFile(
    kind=DocumentReport,
    version=SCHEMA_VERSION,
    max_bytes=256 * 2**20,
    name="A document's report",
    error=DataError,
    write_advice="leave out what was not computed.",
    read_advice="remove it, and evaluate again.",
)
write_document_report, read_document_report = _FILE.write, _FILE.read
