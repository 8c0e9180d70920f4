"""The conditions under which questions about a document are asked.

In: a `Condition`: a text in front of each question or none, and a prefix or none. Out: `AskedPrompts`: a method that is
attached, and what is read for each question after what the method holds.

A context that all questions share is read once: the longest common start of the prompts is one prefix of keys and
values, computed by the backbone itself, and the rest of each prompt follows it. Where a context cannot be read before
its questions (sliding windows, encoder-decoders), each prompt is read whole; the answers are the same.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ptl_prefix.artifacts.conversation import Message, source_of, with_context
from ptl_prefix.artifacts.document_report import ATTENTION_MATCHING, FIRST_TOKENS, NO_CONTEXT, WHOLE_DOCUMENT
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.context_states import context_states, reading_problem
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.methods.given_prefix import GivenPrefix, matched_states
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.no_adaptation import NoAdaptation

_REPEAT = "Repeat a part of the text."
_NUM_REPEATED, _REPEATED_TOKENS = 8, 64


class ConditionUnmeasurableError(ValueError):
    """A condition that a backbone cannot be asked under; the message has the reason."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One way of asking.

    Args:
        name: Name in the report.
        family: What it is, without its size; see `DocumentReport`.
        context: Text in front of each question; `None` for none.
        num_matched: Number of rows into which attention matching compresses the context; `None` reads all of it.
        method: Prefix or other method that is attached; `None` is the bare backbone. It excludes a context.
    """

    name: str
    family: str
    context: str | None = None
    num_matched: int | None = None
    method: Method | None = None

    def __post_init__(self) -> None:
        assert self.context is None or self.method is None, "a context and a method"
        assert self.context is not None or self.num_matched is None, "attention matching without a context"


def control_conditions(backbone: Backbone, document: str, lengths: Sequence[int]) -> list[Condition]:
    """What a prefix of a document is compared with: no context, parts of it, compressed ones, and the whole document.

    Args:
        backbone: The backbone, whose tokenizer counts.
        document: Text of the document.
        lengths: Numbers of tokens of the parts, and of rows of attention matching.
    """
    cut = {p: first_tokens(backbone, document, p) for p in lengths}
    return [
        Condition(name=NO_CONTEXT, family=NO_CONTEXT),
        *(Condition(name=f"first {p} tokens", family=FIRST_TOKENS, context=text) for p, text in cut.items()),
        *(
            Condition(name=f"attention matching, {p} rows", family=ATTENTION_MATCHING, context=document, num_matched=p)
            for p in cut
        ),
        Condition(name=WHOLE_DOCUMENT, family=WHOLE_DOCUMENT, context=document),
    ]


def method_condition(name: str, method: Method) -> Condition:
    """The condition of a bundle's method, which is attached; each question is asked without a context.

    Raises:
        ValueError: The method acts in every forward pass, so that no control could be measured beside it.
    """
    if method.is_exclusive:
        raise ValueError(
            f"A bundle must be of a method that acts only while it is used, as prefixes and prompts do, to be asked "
            f"beside its controls, but {name} is of '{method.kind}'; evaluate it with a task."
        )
    return Condition(name=name, family=method.kind, method=method)


def document_ids(backbone: Backbone, document: str) -> list[int]:
    """The token ids of a document alone."""
    ids: list[int] = backbone.tokenizer(document, add_special_tokens=False, verbose=False).input_ids
    return ids


def first_tokens(backbone: Backbone, document: str, number: int) -> str:
    """The text of a document's first tokens."""
    ids = document_ids(backbone, document)[:number]
    text = backbone.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return str(text).rstrip("\ufffd")  # half of a character at the cut


@dataclass(frozen=True)
class AskedPrompts:
    """Prompts of questions under a condition.

    Args:
        method: Method that is attached.
        prompts: Ids that are read for each question after what the method holds, in the questions' order.
        num_shared: Number of tokens of the context that stand in front of each of them; 0 if the prompts are whole.
    """

    method: Method
    prompts: list[list[int]]
    num_shared: int


@contextmanager
def asked(
    condition: Condition, backbone: Backbone, prompter: Prompter, questions: Sequence[str], *, num_written: int
) -> Iterator[AskedPrompts]:
    """Inside, the condition's method is attached.

    Args:
        condition: Condition.
        backbone: Frozen model.
        prompter: Encoder of questions and answers.
        questions: Texts of the questions.
        num_written: Most tokens that follow a prompt: of an answer, or generated.

    Raises:
        ConditionUnmeasurableError: The context does not fit the backbone's positions, or cannot be compressed.
    """
    prompts = encoded_prompts(prompter, questions, condition.context)
    reserved = 0 if condition.method is None else condition.method.reserved_positions(backbone)
    _check_positions(condition, backbone, prompts, reserved=reserved, num_written=num_written)
    if condition.method is not None:
        yield AskedPrompts(condition.method, prompts, 0)
        return
    shared = _shared(condition, backbone, prompter, prompts)
    method = _holder(condition, backbone, prompter, shared).attach(backbone).eval()
    try:
        yield AskedPrompts(method, [prompt[len(shared) :] for prompt in prompts], len(shared))
    finally:
        method.detach()


def encoded_prompts(prompter: Prompter, questions: Sequence[str], context: str | None) -> list[list[int]]:
    """The ids of each question's prompt, with a context in front of it; nothing is cut.

    Raises:
        DataError: The chat template refuses a question.
    """
    sources = [_source(prompter, question, context) for question in questions]
    return [prompter.prompt_ids(ids) for ids in prompter.tokenize_sources(sources)]


def _source(prompter: Prompter, question: str, context: str | None) -> str:
    """A question as the task's sources are, its context where the teacher of a self-study reads it."""
    messages = [Message("user", question)]
    if context is not None:
        messages = with_context(messages, context, place=prompter.context_place)
    return messages[0].content if prompter.prompt_format.chat is None else source_of(messages)


def _shared(condition: Condition, backbone: Backbone, prompter: Prompter, prompts: list[list[int]]) -> list[int]:
    """The ids that all prompts start with, if they hold a context that can be read before its questions."""
    if condition.context is None:
        return []
    if (problem := reading_problem(backbone)) is not None:
        if condition.num_matched is None:
            return []
        raise ConditionUnmeasurableError(
            f"attention matching needs a context that is read before its questions, but {problem}"
        )
    # With one more prompt, questions that begin alike do not lend their words to the context.
    all_prompts = [*prompts, *encoded_prompts(prompter, [_REPEAT], condition.context)]
    columns = zip(*all_prompts, strict=False)
    alike = list(itertools.takewhile(lambda ids: len(set(ids)) == 1, columns))
    # Of each prompt something is left to read.
    return prompts[0][: min(len(alike), min(map(len, prompts)) - 1)]


def _holder(condition: Condition, backbone: Backbone, prompter: Prompter, shared: list[int]) -> Method:
    """The method that holds the context, or the bare backbone."""
    if not shared:
        return NoAdaptation()
    if condition.num_matched is None:
        return GivenPrefix(name=condition.name, states=context_states(backbone, shared))
    assert condition.context is not None
    texts = _texts_that_repeat(condition.context, backbone, prompter, len(shared))
    try:
        states = matched_states(backbone, shared, texts, condition.num_matched)
    except ValueError as error:
        raise ConditionUnmeasurableError(str(error)) from error
    return GivenPrefix(name=condition.name, states=states)


def _texts_that_repeat(context: str, backbone: Backbone, prompter: Prompter, num_shared: int) -> list[list[int]]:
    """Replies that repeat parts of a context, after the instruction to do so: no question is seen by the matching."""
    (prompt,) = encoded_prompts(prompter, [_REPEAT], context)
    ids = document_ids(backbone, context)
    step = max(1, len(ids) // _NUM_REPEATED)
    return [prompt[num_shared:] + ids[start : start + _REPEATED_TOKENS] for start in range(0, len(ids), step)]


def _check_positions(
    condition: Condition, backbone: Backbone, prompts: Sequence[Sequence[int]], *, reserved: int, num_written: int
) -> None:
    budget = backbone.position_budget(reserved=reserved, max_new_tokens=num_written)
    longest = max(map(len, prompts))
    if budget is not None and longest > budget:
        raise ConditionUnmeasurableError(
            f"a prompt must have at most {budget} tokens beside the answer on {backbone.name}, but the longest has "
            f"{longest} {'with its context' if condition.context else 'without a context'}; choose a backbone with "
            "more positions, or a shorter document"
        )
