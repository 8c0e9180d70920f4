"""What a model is asked, and what stands in the place of a question where there is no chat template."""

import pytest

from ptl_prefix.artifacts.prompt_format import ChatFormat, PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.distillation.asking import ask, passage_beginning, subjects_of, up_to_last_end
from ptl_prefix.distillation.seeds import SEEDS

CHUNK = "In 1820, the old mill was built by Anna Weiss of Ulm. Today it grinds rye, wheat and oats. It is its owner's."


@pytest.fixture
def prompter(llama: Backbone) -> Prompter:
    return llama.prompter(PromptFormat(before="", between="", chat=ChatFormat(name="chatml")))


def test_a_chunk_names_subjects() -> None:
    assert subjects_of(CHUNK) == ["Anna Weiss of Ulm", "the old mill"]
    assert subjects_of("one of three") == ["one", "three"]
    assert subjects_of("1 2 3") == ["this"]


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.kind)
def test_a_prompt_holds_the_chunk_and_a_subject_and_begins_the_reply(
    seed: object, llama: Backbone, prompter: Prompter
) -> None:
    kind = seed.kind  # type: ignore[attr-defined]
    texts = {str(llama.tokenizer.decode(ask(kind, CHUNK, prompter, wanted=1, draw=draw).prompt)) for draw in range(20)}

    assert all(CHUNK in text for text in texts)
    assert all(
        "Anna Weiss of Ulm" in text.replace(CHUNK, "") or "the old mill" in text.replace(CHUNK, "") for text in texts
    )
    beginnings = {text.rpartition("<|im_start|>assistant\n")[2] for text in texts}
    assert len(beginnings) > 2
    assert all(beginnings)
    assert not any("{" in text for text in texts)


def test_several_questions_are_asked_as_a_list(llama: Backbone, prompter: Prompter) -> None:
    asking = ask("question", CHUNK, prompter, wanted=3, draw=0)

    assert "assistant\n1. " in str(llama.tokenizer.decode(asking.prompt))
    reply = '1. Who is Anna?\n2) "When was it built?"\nSo:\n3. What is it'
    assert asking.questions(reply) == ["Who is Anna?", "When was it built?", ""]
    assert not asking.ends_with("?")


def test_a_passage_begins_with_words_of_a_sentence_that_others_follow() -> None:
    found = {passage_beginning(CHUNK, draw) for draw in range(100)}

    sentences = (CHUNK[: CHUNK.index(" Today")], CHUNK[CHUNK.index("Today") : CHUNK.index(" It is")])
    beginnings = {" ".join(text.split()[:cut]) for text in sentences for cut in range(3, len(text.split()) - 1)}
    assert found == beginnings
    assert passage_beginning("one two", 0) == "one two"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is. It was", "It is."),
        ("- a\n- b\n- c", "- a\n- b"),
        ("Of 1.5 m. Or 2.", "Of 1.5 m. Or 2."),
        ("no end", ""),
    ],
)
def test_a_text_is_cut_after_its_last_end(text: str, expected: str) -> None:
    assert up_to_last_end(text) == expected
