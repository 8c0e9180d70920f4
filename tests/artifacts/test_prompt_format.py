"""What is stored and compared of a prompt format, also by versions that knew fewer fields."""

from dataclasses import replace

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.evaluation_record import EvaluationKey
from ptl_prefix.artifacts.prompt_format import ChatFormat, PromptFormat
from ptl_prefix.settings import defaults_of

CHAT = ChatFormat(name="chatml", text="{{ messages }}", sha256="a")


def key_of(prompt: PromptFormat) -> EvaluationKey:
    return EvaluationKey(
        method="lora",
        adaptation="a",
        backbone="b",
        backbone_weights="w",
        dtype="float32",
        task="t",
        task_version="1",
        data="d",
        split="test",
        num_examples=3,
        decoding=Decoding(**{**defaults_of("generation/greedy"), "max_new_tokens": 8}),
        over_labels=False,
        prompt=prompt,
        prompter="p",
        stop_ids=(0,),
    )


def test_caches_and_evaluations_of_earlier_versions_are_found() -> None:
    prompt = PromptFormat()

    # As the first version wrote them.
    assert repr(prompt) == (
        "PromptFormat(before='', between=' {bos}', after='{eos}', max_source_tokens=None, truncation='right')"
    )
    assert key_of(prompt).folder_name == "test-0faaf51220"
    others = [replace(prompt, chat=CHAT), replace(prompt, source_template="{a}")]
    assert len({key_of(one).folder_name for one in [prompt, *others]}) == 3


def test_formats_agree_if_they_do_before_a_backbone_is_known() -> None:
    chat = PromptFormat(between="", chat=CHAT)

    assert chat.agrees_with(PromptFormat(between="", chat=ChatFormat(name="chatml")))
    assert PromptFormat(source_template="{a}").agrees_with(PromptFormat())
    for other in (replace(chat, chat=None), replace(chat, chat=ChatFormat(name="gemma")), replace(chat, between=" ")):
        assert not chat.agrees_with(other)
