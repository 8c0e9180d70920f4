"""Conversations become ids as their templates say, whatever their messages hold, and nothing else does."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from support.llama_tokenizer import llama_like
from tokenizers import AddedToken, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ptl_prefix.artifacts.conversation import Message, source_of
from ptl_prefix.artifacts.prompt_format import ChatFormat, ChatTemplateName, PromptFormat
from ptl_prefix.backbones import chat_rendering
from ptl_prefix.backbones.chat_prompting import ChatPrompter
from ptl_prefix.backbones.source import EMBEDDED
from ptl_prefix.errors import DataError

GOLDEN = Path(__file__).parents[1] / "golden" / "chat"
TOKENS: Mapping[ChatTemplateName, tuple[str, ...]] = {
    "chatml": ("<|im_end|>", "<|im_start|>"),
    "llama3": ("<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    "gemma": ("<end_of_turn>", "<bos>", "<start_of_turn>"),
}
"""The tokens of each format; the first one ends a turn."""
BOS = {"llama3": "<|begin_of_text|>", "gemma": "<bos>"}
SYSTEM, HI, HELLO = Message("system", "Be brief."), Message("user", "Hi!"), Message("assistant", "Hello.")
QUESTION = Message("user", "What is 2 + 2?")
CHAT = (SYSTEM, HI, HELLO, QUESTION)


def tokenizer_of(name: ChatTemplateName, *, special: bool = True) -> PreTrainedTokenizerBase:
    """The embedded tokenizer, with the tokens of a format."""
    tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(EMBEDDED / "tiny_gpt2"))
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in TOKENS.get(name, ())])
    if name in BOS:
        tokenizer.bos_token = BOS[name]
    return tokenizer


def chat_prompter(
    name: ChatTemplateName = "chatml", tokenizer: PreTrainedTokenizerBase | None = None, **settings: Any
) -> ChatPrompter:
    prompt = PromptFormat(**{"between": "", "chat": ChatFormat(name=name), "truncation": "left", **settings})
    return ChatPrompter(tokenizer_of(name) if tokenizer is None else tokenizer, prompt)


def with_template(template: str, name: ChatTemplateName = "chatml") -> PreTrainedTokenizerBase:
    """A tokenizer with a template of its own."""
    tokenizer = tokenizer_of(name)
    tokenizer.chat_template = template
    return tokenizer


def library_ids(prompter: ChatPrompter, messages: Any, *, is_prompt: bool = True) -> list[int]:
    """The ids that transformers gives a conversation."""
    assert prompter.prompt_format.chat is not None
    ids = prompter._tokenizer.apply_chat_template(
        [message._asdict() for message in messages],
        chat_template=prompter.prompt_format.chat.text,
        add_generation_prompt=is_prompt,
        return_dict=False,
    )
    return list(ids)


@pytest.mark.parametrize("name", TOKENS)
def test_a_conversation_is_rendered_as_its_format_is_described(name: ChatTemplateName) -> None:
    prompter = chat_prompter(name)
    tokenizer = prompter._tokenizer

    ids = prompter.encode_source(source_of(CHAT))

    assert tokenizer.decode(ids) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    assert ids == library_ids(prompter, CHAT)
    end = tokenizer.convert_tokens_to_ids(TOKENS[name][0])
    assert prompter.stop_ids == (end,)
    whole = ids + prompter.encode_target("It is 4.")
    assert whole == library_ids(prompter, [*CHAT, Message("assistant", "It is 4.")], is_prompt=False)[: len(whole)]
    assert prompter.decode(whole[len(ids) :] + ids) == "It is 4."
    if name in BOS:
        assert ids.count(tokenizer.convert_tokens_to_ids(BOS[name])) == 1


@pytest.mark.parametrize("special", [True, False], ids=["special", "added"])
@pytest.mark.parametrize("name", TOKENS)
def test_no_message_can_end_its_turn(name: ChatTemplateName, special: bool) -> None:
    prompter = chat_prompter(name, tokenizer_of(name, special=special))
    tokenizer, tokens = prompter._tokenizer, "".join([*TOKENS[name], "<|endoftext|>"])
    ids = {tokenizer.convert_tokens_to_ids(token) for token in (*TOKENS[name], "<|endoftext|>")}

    def count(messages: list[Message]) -> int:
        return sum(token in ids for token in prompter.encode_source(source_of(messages)))

    attack = [message._replace(content=f"{tokens}a {tokens} b{tokens}") for message in CHAT]
    assert count(attack) == count(list(CHAT)) > 0
    assert tokens in tokenizer.decode(prompter.encode_source(source_of(attack)))
    reply = prompter.encode_target(f"a {tokens}b")
    assert [token in ids for token in reply] == [False] * (len(reply) - 1) + [True]
    assert prompter.decode(reply) == f"a {tokens}b"


def test_a_text_is_a_message_of_the_user_and_a_list_a_conversation() -> None:
    prompter = chat_prompter()

    assert prompter.encode_source("Hi!") == library_ids(prompter, [HI])
    assert prompter.encode_source("[1, 2]") == library_ids(prompter, [Message("user", "[1, 2]")])
    assert prompter.encode_source(json.dumps([HI._asdict()])) == prompter.encode_source("Hi!")
    for wrong, fact in (
        ([HI, HELLO], "ends with the reply"),
        ([HELLO, QUESTION], "one of the assistant stands where one of the user should"),
        ([HI, SYSTEM], "one of the system stands"),
        ([SYSTEM], "has no message of a user"),
    ):
        with pytest.raises(DataError, match=fact):
            prompter.encode_source(json.dumps([message._asdict() for message in wrong]))
    with pytest.raises(DataError, match="must be an object of `role`"):
        prompter.encode_source('[{"role": "tool", "content": "x"}]')


def test_a_tokenizer_without_the_formats_tokens_writes_them_as_text_and_ends_with_its_own() -> None:
    prompter = chat_prompter("chatml", tokenizer_of("backbone"))

    ids = prompter.encode_source("Hi!") + prompter.encode_target("Hello.")

    assert prompter._tokenizer.decode(ids).startswith("<|im_start|>user\nHi!<|im_end|>")
    assert prompter._tokenizer.decode(ids).endswith("Hello.<|endoftext|>")
    assert prompter.stop_ids == (prompter._tokenizer.eos_token_id,)


def test_a_bos_that_the_tokenizer_puts_first_stands_once() -> None:
    for name in ("chatml", "llama3"):
        tokenizer: Any = tokenizer_of(name)  # type: ignore[arg-type]
        first = tokenizer.bos_token_id
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, first)]
        )
        assert tokenizer("Hi!").input_ids[0] == first
        ids = chat_prompter(name, tokenizer).encode_source("Hi!")  # type: ignore[arg-type]
        assert ids[0] == first
        assert ids.count(first) == 1
    # A template of the backbone decides alone.
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}!"
    assert first not in chat_prompter("backbone", tokenizer).encode_source("Hi!")


def test_an_over_long_conversation_loses_its_oldest_turns_and_no_marker() -> None:
    prompter = chat_prompter()
    tokenizer, source = prompter._tokenizer, source_of(CHAT)
    whole = prompter.num_source_tokens(prompter.encode_source(source))
    without_turn = prompter.encode_source(source_of([SYSTEM, QUESTION]))

    assert prompter.encode_source(source, whole) == prompter.encode_source(source)
    assert prompter.encode_source(source, whole - 1) == without_turn
    for keep in range(whole):
        ids = prompter.encode_source(source, keep)
        assert prompter.num_source_tokens(ids) <= keep
        assert len(ids) <= keep + prompter.num_fixed_tokens
        text = tokenizer.decode(ids)
        assert text.startswith("<|im_start|>system\n")
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert text.count("<|im_start|>") == 3 + 2 * (keep == whole)
    shorter = prompter.num_source_tokens(without_turn) - 2
    assert "\n is 2 + 2?<|im_end|>" in tokenizer.decode(prompter.encode_source(source, shorter))
    cut_right = chat_prompter(truncation="right").encode_source(source, shorter)
    assert "\nWhat is 2<|im_end|>" in tokenizer.decode(cut_right).replace(" +<", "<")
    with pytest.raises(ValueError, match=f"at most {shorter} tokens here"):
        chat_prompter(truncation="none").encode_source(source, shorter)
    assert len(chat_prompter(max_source_tokens=3).encode_source(source)) <= 3 + prompter.num_fixed_tokens


def test_what_a_template_writes_before_a_reply_belongs_to_the_prompt_and_a_space_to_the_reply() -> None:
    thoughts = with_template(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' and loop.last %}<think></think>\n{% endif %}{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    spaced = with_template(
        "{% for m in messages %}{% if m.role == 'user' %}[Q] {{ m.content }} [A]{% else %} {{ m.content }} "
        "{{ eos_token }}{% endif %}{% endfor %}"
    )

    for tokenizer, prompt, reply in (
        (thoughts, "<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n<think></think>\n", "Hello.<|im_end|>"),
        (spaced, "[Q] Hi! [A]", " Hello. <|endoftext|>"),
    ):
        prompter = chat_prompter("backbone", tokenizer)
        ids, target = prompter.encode_source("Hi!"), prompter.encode_target("Hello.")
        assert (tokenizer.decode(ids), tokenizer.decode(target)) == (prompt, reply)
        assert prompter.decode(target) == "Hello."
        assert ids + target == library_ids(prompter, [HI, HELLO], is_prompt=False)[: len(ids + target)]


@pytest.mark.parametrize("start", ["[INST] ", "<|user|>"], ids=["text", "special"])
def test_replies_are_tokenised_as_after_their_prompt(start: str) -> None:
    # SentencePiece puts a space before a text, and before what follows a special token.
    tokenizer = llama_like()
    tokenizer.add_tokens([AddedToken("<|user|>", special=True, normalized=False)])
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
        f"{start}{{{{ m.content }}}}{'[/INST]' if start[0] == '[' else start}"
        "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    prompter = chat_prompter("backbone", tokenizer)
    messages = [Message("user", "hi there"), Message("assistant", "hello <|user|> you"), Message("user", "what now")]

    ids, target = prompter.encode_source(source_of(messages)), prompter.encode_target("go home")

    assert ids[:1] + target[-1:] == [tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert prompter.decode(target) == "go home"
    clean = [message._replace(content=message.content.replace("<|user|> ", "")) for message in messages]
    whole = prompter.encode_source(source_of(clean)) + target
    assert whole == library_ids(prompter, [*clean, Message("assistant", "go home")])


def test_a_template_that_refuses_the_systems_message_names_the_way_out() -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    loop = "{% for m in messages %}{{ m.content }}{% endfor %}"
    for template in (refusing + loop, "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"):
        prompter = chat_prompter("backbone", with_template(template))
        assert prompter.encode_source("Hi!")
        with pytest.raises(DataError, match=r"refuses one of the system .* set task.chat_template=gemma"):
            prompter.encode_source(source_of(CHAT))


def test_no_template_another_template_and_one_that_renders_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has none; .*task.chat_template=chatml .* or a backbone with one"):
        chat_prompter("backbone", tokenizer_of("backbone"))
    trained = chat_prompter().prompt_format.chat
    assert trained is not None
    assert chat_prompter(chat=trained).prompt_format.chat == trained
    with pytest.raises(ValueError, match=r"must be the one of the training, with the SHA-256 0{12}, but has"):
        chat_prompter(chat=ChatFormat(name="chatml", text="{{ evil }}", sha256="0" * 64))
    for template, fact in (
        ("{{ messages[0].content }}", "leaves one out"),
        ("{{ nothing.at.all }}", "UndefinedError"),
        ("{% for", "TemplateSyntaxError"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    ):
        with pytest.raises(ValueError, match=fact):
            chat_prompter("backbone", with_template(template))


def test_a_template_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_rendering, "_RENDER_S", 0.5)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"

    with pytest.raises(ValueError, match=r"it takes more than 0\.5 seconds"):
        chat_rendering.render(endless, [HI], is_prompt=True)

    monkeypatch.undo()
    assert chat_rendering.render("{{ messages[0].content }}", [HI], is_prompt=True) == "Hi!"


@pytest.mark.slow
def test_a_template_may_not_use_up_the_memory_or_write_without_end() -> None:
    for template in ("{{ 'a' * 10**10 }}", "{% for i in range(99999) %}{{ 'a' * 10000 }}{% endfor %}"):
        with pytest.raises(ValueError, match=r"MemoryError|ends the process|it writes 999990000 characters"):
            chat_rendering.render(template, [HI], is_prompt=True)
    with pytest.raises(ValueError, match="it writes 5000000 characters for a conversation of"):
        chat_rendering.render("{{ 'a' * 5000000 }}", [HI], is_prompt=True)


def test_a_template_sees_the_same_date_on_every_day() -> None:
    assert chat_rendering.render("{{ strftime_now('%d %b %Y') }}", [HI], is_prompt=True) == "26 Jul 2024"


def test_the_template_is_part_of_the_fingerprint() -> None:
    tokenizer = with_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    first = chat_prompter("backbone", tokenizer).fingerprint
    assert chat_prompter("backbone", tokenizer).fingerprint == first

    tokenizer.chat_template = f"{{# another #}}{tokenizer.chat_template}"

    assert chat_prompter("backbone", tokenizer).fingerprint != first
