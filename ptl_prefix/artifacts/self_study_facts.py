"""What a self-study's folder holds besides the teacher's log-probabilities: conversations, and facts of all of them."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import ConfigDict

from ptl_prefix.artifacts.conversation import ContextPlace
from ptl_prefix.artifacts.json_document import STRICT
from ptl_prefix.artifacts.manifest import BackboneIdentity
from ptl_prefix.artifacts.prompt_format import PromptFormat

SELF_STUDY_VERSION = 1

AskedKind = Literal["fact", "question", "summarising", "structuring", "use_case", "creative"]
"""Kinds whose questions the model asks."""
StudyKind = AskedKind | Literal["completion"]
"""Kinds of conversations on the document, which take turns."""
Kind = StudyKind | Literal["continuation", "own", "general"]
"""What asked: one of five seed prompts; the beginning of a passage, where no model asks; the user;
or a built-in instruction that is not about the document."""


@dataclass(frozen=True, kw_only=True)
class StudyConversation:
    """A question and its answer.

    Args:
        id: Id in the folder.
        kind: What asked the question.
        split: Split of the training that it belongs to.
        chunk: First token and end of the chunk of the document that the teacher reads; `None`: it reads none.
        question: Text of the user's message; the student reads nothing else.
        answer: Text of the reply; `prompter.encode_target` makes its ids.
    """

    id: str
    kind: Kind
    split: Literal["train", "validation"]
    chunk: tuple[Annotated[int, Ge(0)], Annotated[int, Ge(1)]] | None
    question: str
    answer: str

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, kw_only=True)
class StudyCounts:
    """What became of the generated conversations.

    Args:
        asked: Number of questions, generated, given and built in; each new attempt counts.
        kept: Number of conversations in the folder.
        dropped: Number of questions and answers that are not, by reason, such as `numbers`: one that the chunk lacks.
        given_up: Number of conversations that were wanted and that no attempt gave.
        answer_tokens: Number of answer tokens with log-probabilities.
    """

    asked: Annotated[int, Ge(0)]
    kept: Annotated[int, Ge(0)]
    dropped: dict[str, int]
    given_up: Annotated[int, Ge(0)]
    answer_tokens: Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class SelfStudyFacts:
    """Everything in the folder besides the conversations.

    Args:
        document_sha256: SHA-256 of the document's text in UTF-8.
        document_tokens: Number of tokens of the document.
        backbone: Model that asked, answered and is the teacher.
        precision: Dtype of its activations, and its quantisation if there is one.
        prompt: Format of the prompts, of the student and the teacher.
        context_place: Place of the chunk in the teacher's prompt.
        settings: Settings of the self-study, with the user's questions in the place of their file.
        counts: Number of conversations that were asked, kept and dropped.
        coverage: Tokens of all conversations' chunks, divided by those of the document.
        files: SHA-256 of each other file of the folder, by its name.
        schema_version: Version of this folder's format.
    """

    document_sha256: str
    document_tokens: Annotated[int, Ge(1)]
    backbone: BackboneIdentity
    precision: str
    prompt: PromptFormat
    context_place: ContextPlace
    settings: dict[str, Any]
    counts: StudyCounts
    coverage: Annotated[float, Ge(0)]
    files: dict[str, str]
    schema_version: Annotated[int, Ge(1), Le(2**31)] = SELF_STUDY_VERSION

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
