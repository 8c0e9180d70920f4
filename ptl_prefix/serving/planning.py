"""From a body to what the engine generates: prompts become ids, and settings are completed.

In: a body whose fields are checked, and the target that its model names. Out: one `GenerationRequest` for each text; or
an `ApiError`, such as for a prompt that does not fit the context window.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ptl_prefix.artifacts.conversation import Message, Role
from ptl_prefix.artifacts.conversation import source_of as conversation_source
from ptl_prefix.artifacts.decoding import LEAST_TEMPERATURE, Decoding
from ptl_prefix.artifacts.source_template import SourceTemplate
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.errors import PtlPrefixError
from ptl_prefix.serving.api import ChatBody, CompletionBody, GenerationBody
from ptl_prefix.serving.api_error import invalid
from ptl_prefix.serving.label_trie import LabelTrie
from ptl_prefix.serving.models import Target
from ptl_prefix.serving.request import GenerationRequest, Sampling

_ROLES: Mapping[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""What a chat template calls the roles of the API: newer clients send a system message as one of the developer."""


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as ids.

    Args:
        ids: Token ids of the whole prompt.
        num_cut: Tokens of the source that the bundle's prompt format cut off, as in training.
    """

    ids: tuple[int, ...]
    num_cut: int = 0


@dataclass(frozen=True)
class Plan:
    """The texts of one body.

    Args:
        requests: One request per text, `n` of each prompt after another.
        prompts: The prompts.
    """

    requests: tuple[GenerationRequest, ...]
    prompts: tuple[EncodedPrompt, ...]


def source_text(body: CompletionBody | ChatBody) -> str:
    """The text by which a router chooses the task: the first prompt, or the last message."""
    return body.prompts[0] if isinstance(body, CompletionBody) else body.messages[-1].text


def num_texts(body: CompletionBody | ChatBody) -> int:
    """The number of texts that a body asks for."""
    return body.num_choices * (len(body.prompts) if isinstance(body, CompletionBody) else 1)


def make_plan(
    body: CompletionBody | ChatBody, target: Target, *, request_id: str, client: str, deadline_s: float | None
) -> Plan:
    """The texts that the engine generates for a body.

    Raises:
        ApiError: When a prompt has no tokens, does not fit the context window, or is a conversation that the target
            cannot read.
    """
    labels = _labels(body, target)
    # As in evaluation: the prompt leaves room for the longest label.
    usual = target.decoding.max_new_tokens if labels is None else labels.longest
    max_new_tokens = body.max_new_tokens or usual
    param = "prompt" if isinstance(body, CompletionBody) else "messages"
    try:
        prompts = tuple(_prompts(body, target, max_new_tokens))
        for prompt in prompts:
            _check_length(prompt, target, max_new_tokens)
    except PtlPrefixError as error:
        raise invalid(str(error), param=param, code="invalid_prompt") from error
    except ValueError as error:
        raise invalid(str(error), param=param, code="context_length_exceeded") from error
    seed = secrets.randbits(63) if body.seed is None else body.seed % 2**63
    requests = [
        GenerationRequest(
            request_id=f"{request_id}-{index * body.num_choices + choice}",
            version=None if target.bundle is None else target.bundle.version,
            prompt_ids=prompt.ids,
            stop_ids=_prompter(body, target).stop_ids,
            is_stripped=target.bundle is not None,
            sampling=_sampling(body, target.decoding, max_new_tokens, (seed + choice) % 2**63),
            client=client,
            deadline_s=deadline_s,
            labels=labels,
        )
        for index, prompt in enumerate(prompts)
        for choice in range(body.num_choices)
    ]
    return Plan(tuple(requests), prompts)


def prompt_of_source(text: str, target: Target) -> tuple[int, ...]:
    """The ids of a source as its bundle's task renders it, cut to leave room for one new token.

    Raises:
        ApiError: When it cannot be rendered, or has no tokens.
    """
    try:
        prompt = _source(_rendered(text, target), target, 1)
        _check_length(prompt, target, 1)
    except (PtlPrefixError, ValueError) as error:
        raise invalid(str(error), param="prompt", code="invalid_prompt") from error
    return prompt.ids


def _labels(body: CompletionBody | ChatBody, target: Target) -> LabelTrie | None:
    """The labels of which an answer must be one, unless the client wants free text or writes the prompt itself."""
    is_raw = isinstance(body, CompletionBody) and bool(body.raw)
    if target.bundle is None or is_raw or body.labels_only is False:
        return None
    return target.bundle.labels


def _sampling(body: GenerationBody, own: Decoding, max_new_tokens: int, seed: int) -> Sampling:
    """The settings of one text: those of the body, else those of the bundle."""
    temperature, top_p = body.temperature, body.top_p
    if temperature is None:
        # As OpenAI's default is 1, who sets only `top_p` wants to sample.
        temperature = own.temperature if own.do_sample else 0.0 if top_p is None else 1.0
    if top_p is None:
        top_p = own.top_p if own.do_sample else 1.0
    if top_p == 0 or temperature < LEAST_TEMPERATURE:
        temperature, top_p = 0.0, 1.0
    return Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        num_logprobs=body.num_logprobs,
        stop=body.stop_texts,
    )


def _prompter(body: CompletionBody | ChatBody, target: Target) -> Prompter:
    """What encodes a body's texts: of a chat with the bare model, its chat template."""
    chat = target.base.chat_prompter
    is_chat = isinstance(body, ChatBody) and target.bundle is None and chat is not None
    return chat if is_chat and chat is not None else target.prompter


def _prompts(body: CompletionBody | ChatBody, target: Target, max_new_tokens: int) -> Sequence[EncodedPrompt]:
    if isinstance(body, CompletionBody):
        reads_as_is = bool(body.raw) or target.bundle is None
        return [
            _as_it_is(text, target) if reads_as_is else _source(_rendered(text, target), target, max_new_tokens)
            for text in body.prompts
        ]
    prompter = _prompter(body, target)
    if prompter.prompt_format.chat is not None:
        source = conversation_source([Message(_ROLES[message.role], message.text) for message in body.messages])
        if target.bundle is not None:
            return [_source(source, target, max_new_tokens)]
        return [EncodedPrompt(tuple(prompter.encode_source(source)))]
    message = body.messages[0]
    if len(body.messages) > 1 or message.role != "user":
        raise invalid(
            f"`messages` must be one message of the user, which is the source of {target.name!r}: it was not trained "
            f"on conversations; got {len(body.messages)} with the roles "
            f"{', '.join(sorted({one.role for one in body.messages}))}.",
            param="messages",
            code="unsupported_messages",
        )
    if target.bundle is None:
        return [_as_it_is(message.text, target)]
    return [_source(_rendered(message.text, target), target, max_new_tokens)]


def _rendered(text: str, target: Target) -> str:
    """A source as the bundle's task renders it: with its template, if it has one."""
    template = target.prompter.prompt_format.source_template
    return text if template is None else SourceTemplate(template).render_source(text)


def _source(text: str, target: Target, max_new_tokens: int) -> EncodedPrompt:
    """A task's rendered source, cut as in training."""
    prompter = target.prompter
    budget = _prompt_budget(target, max_new_tokens)
    longest = None if budget is None else max(budget - prompter.num_fixed_tokens, 0)
    whole = prompter.tokenize_sources([text])[0]
    ids = prompter.cut_source(text, whole, longest)
    num_cut = prompter.num_source_tokens(whole) - prompter.num_source_tokens(ids)
    return EncodedPrompt(tuple(prompter.prompt_ids(ids)), num_cut)


def _as_it_is(text: str, target: Target) -> EncodedPrompt:
    return EncodedPrompt(tuple(target.base.prompter.encode_source(text)))


def _check_length(prompt: EncodedPrompt, target: Target, max_new_tokens: int) -> None:
    """Refuse a prompt that is empty, or does not fit the context window together with the prefix and the new tokens."""
    if not prompt.ids:
        raise ValueError("A prompt must have a token, but this one has none; write a text.")
    budget = _prompt_budget(target, max_new_tokens)
    if budget is not None and len(prompt.ids) > budget:
        raise ValueError(
            f"Prefix, prompt and new tokens must fit the context window of {target.base.max_positions} positions, but "
            f"are {target.num_positions} + {len(prompt.ids)} + {max_new_tokens}; shorten the prompt, or lower "
            "`max_tokens`."
        )


def _prompt_budget(target: Target, max_new_tokens: int) -> int | None:
    """Most tokens of a prompt beside the prefix and the new tokens; `None` if there is no limit."""
    window = target.base.max_positions
    if window is None:
        return None
    if not target.base.is_encoder_decoder:
        return window - target.num_positions - max_new_tokens
    return window - target.num_positions if max_new_tokens <= window else -1
