"""Conditions under which questions are asked: what is read, and that reading it once changes no answer."""

from typing import Any

import pytest

from ptl_prefix import PrefixTuning, load_backbone
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.prompt_format import ChatFormat, PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.question_file import Question
from ptl_prefix.evaluation.condition import (
    AskedPrompts,
    Condition,
    ConditionUnmeasurableError,
    asked,
    control_conditions,
    document_ids,
    encoded_prompts,
    first_tokens,
    method_condition,
)
from ptl_prefix.evaluation.document_questions import Answer, answer_questions
from ptl_prefix.methods.given_prefix import GivenPrefix
from ptl_prefix.methods.no_adaptation import NoAdaptation
from ptl_prefix.settings import defaults_of

DOCUMENT = "the cat sat on the mat in the city"
QUESTIONS = [
    Question(id="1", question="where", answers=("the mat", "a mat")),
    Question(id="2", question="who sat", answers=("cat",), choices=("dog", "cat", "a pub in Rome"), correct=1),
    Question(id="3", question="when", answers=("now",)),
]
TEXTS = [one.question for one in QUESTIONS]
DECODING = Decoding(**{**defaults_of("generation/greedy"), "max_new_tokens": 4})


def answers(backbone: Backbone, prompter: Prompter, prompts: AskedPrompts, *, batch_size: int = 2) -> list[Answer]:
    return answer_questions(backbone, prompter, QUESTIONS, prompts, decoding=DECODING, batch_size=batch_size)


def assert_same(found: list[Answer], expected: list[Answer]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.nats == pytest.approx(other.nats, rel=1e-4)
        assert (one.num_tokens, one.chosen) == (other.num_tokens, other.chosen)
        assert (one.generated is None) == (other.generated is None)


def whole_prompts(backbone: Backbone, prompter: Prompter) -> AskedPrompts:
    return AskedPrompts(NoAdaptation().attach(backbone), encoded_prompts(prompter, TEXTS, DOCUMENT), 0)


def assert_read_once(backbone: Backbone, prompter: Prompter) -> None:
    condition = Condition(name="document", family="document", context=DOCUMENT)
    expected = answers(backbone, prompter, whole_prompts(backbone, prompter), batch_size=1)

    with asked(condition, backbone, prompter, TEXTS, num_written=14) as prompts:
        found = answers(backbone, prompter, prompts)

    assert isinstance(prompts.method, GivenPrefix)
    assert prompts.num_shared >= len(document_ids(backbone, DOCUMENT)) - 1
    assert all(ids for ids in prompts.prompts)
    assert_same(found, expected)
    # Without the document the answers are others: the comparison could fail.
    bare = answers(backbone, prompter, AskedPrompts(NoAdaptation().attach(backbone), prompts.prompts, 0))
    assert abs(bare[0].nats - expected[0].nats) > 0.1
    assert not backbone.slots.filled()["decoder_self"][0]


def test_a_document_that_is_read_once_gives_the_answers_of_whole_prompts(backbone: Backbone) -> None:
    assert_read_once(backbone, backbone.prompter(PromptFormat(between=" =>")))


def test_so_does_a_document_in_the_message_of_the_system() -> None:
    backbone = load_backbone("tiny_gpt2", dtype="float32")
    prompter = backbone.prompter(PromptFormat(between="", chat=ChatFormat(name="chatml")))

    assert_read_once(backbone, prompter)

    (whole,) = encoded_prompts(prompter, TEXTS[:1], DOCUMENT)
    text = backbone.tokenizer.decode(whole)
    assert text.index("system") < text.index(DOCUMENT) < text.index("where")


@pytest.mark.parametrize("any_backbone", ["mistral", "t5"], indirect=True)
def test_where_no_context_can_be_read_first_it_is_read_with_each_question(any_backbone: Backbone) -> None:
    backbone, prompter = any_backbone, any_backbone.prompter(PromptFormat(between=" =>"))
    expected = answers(backbone, prompter, whole_prompts(backbone, prompter), batch_size=1)

    condition = Condition(name="document", family="document", context=DOCUMENT)
    with asked(condition, backbone, prompter, TEXTS, num_written=14) as prompts:
        assert prompts.num_shared == 0
        assert_same(answers(backbone, prompter, prompts), expected)

    matched = Condition(name="matched", family="attention matching", context=DOCUMENT, num_matched=2)
    with (
        pytest.raises(ConditionUnmeasurableError, match="attention matching needs a context that is read before"),
        asked(matched, backbone, prompter, TEXTS, num_written=14),
    ):
        pass


def test_a_context_that_does_not_fit_is_refused_with_what_to_do(backbone: Backbone) -> None:
    prompter = backbone.prompter(PromptFormat(between=" =>"))
    condition = Condition(name="document", family="document", context="word " * 60)

    with (
        pytest.raises(ConditionUnmeasurableError, match=r"at most 50 tokens .* with its context; choose a backbone"),
        asked(condition, backbone, prompter, TEXTS, num_written=14),
    ):
        pass


def test_the_controls_of_a_document(backbone: Backbone) -> None:
    conditions = control_conditions(backbone, DOCUMENT, [3, 8])

    assert [(one.name, one.family, one.num_matched) for one in conditions] == [
        ("no context", "no context", None),
        ("first 3 tokens", "first tokens", None),
        ("first 8 tokens", "first tokens", None),
        ("attention matching, 3 rows", "attention matching", 3),
        ("attention matching, 8 rows", "attention matching", 8),
        ("document", "document", None),
    ]
    cut = [one.context for one in conditions if one.family == "first tokens"]
    assert [document_ids(backbone, str(text)) for text in cut] == [document_ids(backbone, DOCUMENT)[:p] for p in (3, 8)]
    # A character of several tokens is left out whole.
    assert first_tokens(backbone, "aé", 2) == "a"


def test_a_prefix_is_asked_without_a_context_and_stays_attached(backbone: Backbone) -> None:
    prompter = backbone.prompter(PromptFormat(between=" =>"))
    method = PrefixTuning(prefix_length=5, reparam="none").attach(backbone)

    with asked(method_condition("mine", method), backbone, prompter, TEXTS, num_written=4) as prompts:
        assert prompts.method is method
        assert prompts.prompts == encoded_prompts(prompter, TEXTS, None)
    assert method.is_attached

    class Exclusive(PrefixTuning):
        is_exclusive = True

    settings: dict[str, Any] = {"prefix_length": 5, "reparam": "none"}
    with pytest.raises(ValueError, match=r"acts only while it is used, .* but mine is of 'prefix_tuning'"):
        method_condition("mine", Exclusive(**settings))
