"""Prompts become ids as in training, and settings that a body leaves out are the bundle's."""

from dataclasses import replace
from typing import Any

import pytest
from support.scripted_engine import GREEDY, WINDOW, embedded_tokenizer, made_up_base, made_up_bundle

from ptl_prefix.artifacts.conversation import Message, source_of
from ptl_prefix.artifacts.prompt_format import ChatFormat, PromptFormat
from ptl_prefix.backbones.choose_prompter import choose_prompter
from ptl_prefix.serving.api import ChatBody, CompletionBody
from ptl_prefix.serving.api_error import ApiError
from ptl_prefix.serving.models import Target
from ptl_prefix.serving.planning import Plan, make_plan
from ptl_prefix.serving.request import Sampling

TOKENIZER = embedded_tokenizer()
BASE = made_up_base(TOKENIZER)


def plan(body: dict[str, Any], bundle: Any = "towns", **base: Any) -> Plan:
    made = made_up_bundle("towns", TOKENIZER) if bundle == "towns" else bundle
    target = Target(bundle=made, base=replace(BASE, **base))
    kind = ChatBody if "messages" in body else CompletionBody
    checked = kind.model_validate({"model": "towns", **body})
    return make_plan(checked, target, request_id="r", client="alice", deadline_s=7.0)  # type: ignore[arg-type]


def sampling(body: dict[str, Any], **own: Any) -> Sampling:
    bundle = made_up_bundle("towns", TOKENIZER, decoding=replace(GREEDY, **own))
    return plan({"prompt": "a", **body}, bundle).requests[0].sampling


def test_a_prompt_and_a_message_are_the_tasks_source() -> None:
    target = made_up_bundle("towns", TOKENIZER)
    ids = tuple(target.prompter.encode_source("name : x"))

    completion = plan({"prompt": "name : x"})
    chat = plan({"messages": [{"role": "user", "content": "name : x"}]})

    assert completion.prompts[0].ids == chat.prompts[0].ids == ids
    (request,) = completion.requests
    assert (request.version, request.client, request.deadline_s) == (target.version, "alice", 7.0)
    assert request.stop_ids == target.prompter.stop_ids
    assert request.is_stripped


def test_a_raw_prompt_and_the_bases_are_read_as_they_are() -> None:
    ids = tuple(TOKENIZER("name : x<|endoftext|>", split_special_tokens=True).input_ids)

    assert plan({"prompt": "name : x<|endoftext|>", "raw": True}).prompts[0].ids == ids
    assert plan({"prompt": "name : x<|endoftext|>"}, None).prompts[0].ids == ids
    assert plan({"prompt": "a"}, None).requests[0].version is None
    assert plan({"prompt": "a"}).prompts[0].ids != plan({"prompt": "a"}, None).prompts[0].ids


@pytest.mark.parametrize("roles", [["system", "user"], ["user", "assistant", "user"], ["assistant"]])
def test_a_conversation_needs_a_chat_template(roles: list[str]) -> None:
    body = {"messages": [{"role": role, "content": role} for role in roles]}
    with pytest.raises(ApiError) as refused:
        plan(body)
    assert (refused.value.status, refused.value.param) == (400, "messages")


CHAT = PromptFormat(between="", chat=ChatFormat(name="chatml"))


def test_a_chat_is_rendered_by_the_template_of_the_bundle_or_of_the_model() -> None:
    prompter = choose_prompter(TOKENIZER, CHAT, decoder_start_id=None, num_ids=None, of="tiny")
    bundle = replace(made_up_bundle("towns", TOKENIZER), prompter=prompter)
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
    source = source_of([Message("system", "Be brief."), Message("user", "Where?")])

    of_bundle = plan({"messages": messages}, bundle)
    of_base = plan({"messages": messages}, None, chat_prompter=prompter)

    assert of_bundle.prompts[0].ids == of_base.prompts[0].ids == tuple(prompter.encode_source(source))
    assert of_bundle.requests[0].stop_ids == of_base.requests[0].stop_ids == prompter.stop_ids
    assert plan({"prompt": "Where?"}, bundle).prompts[0].ids == tuple(prompter.encode_source("Where?"))
    assert plan({"prompt": "Where?"}, None, chat_prompter=prompter).requests[0].stop_ids == BASE.prompter.stop_ids


def test_a_conversation_that_no_reply_can_follow_is_refused() -> None:
    prompter = choose_prompter(TOKENIZER, CHAT, decoder_start_id=None, num_ids=None, of="tiny")
    body = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}

    for bundle in (replace(made_up_bundle("towns", TOKENIZER), prompter=prompter), None):
        with pytest.raises(ApiError) as refused:
            plan(body, bundle, chat_prompter=prompter)
        assert (refused.value.status, refused.value.param) == (400, "messages")


def test_a_source_is_rendered_with_the_tasks_template() -> None:
    prompt = PromptFormat(source_template="{name} of {city}")
    prompter = choose_prompter(TOKENIZER, prompt, decoder_start_id=None, num_ids=None, of="tiny")
    bundle = replace(made_up_bundle("towns", TOKENIZER), prompter=prompter)

    made = plan({"prompt": '{"name": "The Mill", "city": "Rome"}'}, bundle)

    assert made.prompts[0].ids == tuple(prompter.encode_source("The Mill of Rome"))
    with pytest.raises(ApiError):
        plan({"prompt": "The Mill"}, bundle)


@pytest.mark.parametrize(
    ("body", "own", "expected"),
    [
        ({}, {}, (0.0, 1.0)),
        ({}, {"do_sample": True, "temperature": 0.7, "top_p": 0.9}, (0.7, 0.9)),
        ({}, {"do_sample": False, "temperature": 0.7, "top_p": 0.9}, (0.0, 1.0)),
        ({"temperature": 0.5}, {}, (0.5, 1.0)),
        ({"temperature": 0}, {"do_sample": True, "top_p": 0.9}, (0.0, 1.0)),
        ({"temperature": 1e-9}, {}, (0.0, 1.0)),
        ({"top_p": 0.3}, {}, (1.0, 0.3)),
        ({"top_p": 0}, {"do_sample": True}, (0.0, 1.0)),
        ({"top_p": 0.3}, {"do_sample": True, "temperature": 0.7}, (0.7, 0.3)),
    ],
)
def test_temperature_and_top_p(body: dict[str, Any], own: dict[str, Any], expected: tuple[float, float]) -> None:
    made = sampling(body, **own)
    assert (made.temperature, made.top_p) == expected


def test_the_length_is_the_bodys_or_the_bundles() -> None:
    assert sampling({}, max_new_tokens=9).max_new_tokens == 9
    assert sampling({"max_tokens": 3}, max_new_tokens=9).max_new_tokens == 3


def test_each_choice_has_a_seed_of_its_own_and_a_given_one_repeats() -> None:
    first, again = (plan({"prompt": ["a", "b"], "n": 2, "seed": -1}) for _ in range(2))
    seeds = [request.sampling.seed for request in first.requests]

    assert seeds == [request.sampling.seed for request in again.requests]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds[0] != seeds[1]
    assert len({request.request_id for request in first.requests}) == 4
    assert [request.prompt_ids for request in first.requests] == [
        prompt.ids for prompt in first.prompts for _ in range(2)
    ]
    unseeded = {plan({"prompt": "a"}).requests[0].sampling.seed for _ in range(3)}
    assert len(unseeded) == 3


def test_a_source_is_cut_as_in_training_and_that_is_counted() -> None:
    bundle = made_up_bundle("towns", TOKENIZER, prompt={"max_source_tokens": 3})
    whole = bundle.prompter.tokenize_sources(["a b c d e"])[0]

    (prompt,) = plan({"prompt": "a b c d e"}, bundle).prompts

    assert prompt.ids == tuple(bundle.prompter.prompt_ids(whole[:3]))
    assert prompt.num_cut == len(whole) - 3
    assert plan({"prompt": "a"}, bundle).prompts[0].num_cut == 0


def test_prefix_prompt_and_new_tokens_fill_the_window_exactly_or_are_refused() -> None:
    text = "a" * 400
    length = len(BASE.prompter.encode_source(text))
    fits = WINDOW - 5 - length

    assert plan({"prompt": text, "raw": True, "max_tokens": fits}).requests
    for body in (
        {"prompt": text, "raw": True, "max_tokens": fits + 1},
        {"prompt": "a", "max_tokens": WINDOW},
        {"prompt": "", "raw": True},
    ):
        with pytest.raises(ApiError) as refused:
            plan(body)
        assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")
    # An encoder-decoder has a window for each of the two texts.
    both = {"prompt": text, "raw": True, "max_tokens": WINDOW}
    assert plan(both, is_encoder_decoder=True).requests
    with pytest.raises(ApiError):
        plan({**both, "max_tokens": WINDOW + 1}, is_encoder_decoder=True)
    assert plan({"prompt": text, "max_tokens": 2**20}, max_positions=None).requests


def test_a_format_that_cuts_nothing_refuses_a_longer_source() -> None:
    bundle = made_up_bundle("towns", TOKENIZER, prompt={"max_source_tokens": 3, "truncation": "none"})
    with pytest.raises(ApiError, match="at most 3 tokens"):
        plan({"prompt": "a b c d e"}, bundle)
