"""One block: what is asked, what is kept, and what is dropped and tried anew."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from support.scripted_study import MILL, STOP, ScriptedInputs, scripted_inputs
from torch.testing import assert_close

from ptl_prefix.artifacts.unfinished_self_study import StudyBlock
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.distillation.block import make_block
from ptl_prefix.distillation.plan import Slot

ASKED = "Write the question alone."
"""In each prompt that asks for one question."""
SLOTS = [Slot(kind="question", chunk=(0, 20), number=number) for number in range(2)]
WHEEL, RYE = " of the wheel's oak?", " of the rye?"


def block_of(
    backbone: Backbone, script: Mapping[str, Sequence[str]], slots: Sequence[Slot] = SLOTS[:1], **settings: Any
) -> tuple[StudyBlock, ScriptedInputs]:
    inputs = scripted_inputs(backbone, script, **settings)
    return make_block(inputs, slots, known=()), inputs


def test_a_conversation_is_asked_answered_and_read_by_the_teacher(llama: Backbone) -> None:
    block, inputs = block_of(llama, {WHEEL: [f"It is of oak.{STOP}"], ASKED: [f"{WHEEL}\nMore"]})

    [conversation], [teacher] = block.conversations, block.teacher
    assert (conversation.id, conversation.kind, conversation.chunk) == ("question-00000", "question", (0, 20))
    assert conversation.question.endswith(WHEEL)
    assert conversation.answer == "It is of oak."
    assert teacher.token_ids.tolist() == inputs.prompter.encode_target("It is of oak.")
    assert (block.asked, block.dropped, block.given_up) == (1, {}, 0)
    # Both times the model reads the chunk, and the reply is begun for it.
    chunk = inputs.document.text_of((0, 20))
    assert all(chunk in prompt for prompt in inputs.prompts)
    assert len(inputs.prompts) == 2
    assert inputs.prompts[0].rstrip().split("\n")[-1] == conversation.question.removesuffix(WHEEL)


def test_of_a_fact_the_teacher_is_told_to_be_brief_and_the_student_is_not(llama: Backbone) -> None:
    told = "Answer in a few words."
    slot = Slot(kind="fact", chunk=(0, 20), number=0)

    block, inputs = block_of(llama, {told: [f"Oak.{STOP}"], WHEEL: [f"Long.{STOP}"], ASKED: [WHEEL]}, [slot])

    [conversation], [teacher] = block.conversations, block.teacher
    assert (conversation.kind, conversation.answer) == ("fact", "Oak.")
    assert conversation.question.endswith(WHEEL)
    prompt = inputs.prompt_ids(f"{conversation.question} {told}", inputs.document.text_of((0, 20)))
    ids = teacher.token_ids.tolist()
    with torch.no_grad():
        logits = llama.model(torch.tensor([prompt + ids]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1).topk(4)
    assert_close(teacher.top_log_probs[:, 0], expected.values[:, 0], rtol=1e-4, atol=1e-4)
    assert teacher.top_ids[:, 0].tolist() == expected.indices[:, 0].tolist()


def test_a_completion_is_the_documents_own_and_nothing_is_generated_for_it(llama: Backbone) -> None:
    slots = [Slot(kind="completion", chunk=(0, 60), number=number, wanted=2) for number in range(3)]

    block, inputs = block_of(llama, {}, slots)

    assert inputs.prompts == []
    assert len(block.conversations) + block.given_up == 6
    assert len(block.conversations) > 3
    for conversation in block.conversations:
        beginning = conversation.question.removeprefix("Complete this sentence: ").removesuffix(" …")
        assert f"{beginning} {conversation.answer}" in MILL
        assert conversation.answer.endswith(".")
    assert len({conversation.question for conversation in block.conversations}) == len(block.conversations)


def test_a_completion_is_as_long_as_an_answer_may_be(llama: Backbone) -> None:
    slots = [Slot(kind="completion", chunk=(0, 60), number=number) for number in range(8)]

    block, inputs = block_of(llama, {}, slots, max_answer_tokens=5)

    lengths = [len(inputs.prompter.tokenize_targets([one.answer])[0]) for one in block.conversations]
    assert max(lengths) == 4


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({ASKED: ["without an end", WHEEL]}, "unfinished_question"),
        ({ASKED: [" a great question!\n", WHEEL]}, "unfinished_question"),
        ({ASKED: [" of 1999?", WHEEL]}, "numbers"),
        ({ASKED: [" of this text?", WHEEL]}, "about_text"),
        ({WHEEL: [f"The text says so.{STOP}", f"Of oak.{STOP}"], ASKED: [WHEEL]}, "about_text"),
        ({WHEEL: [f"In 1999.{STOP}", f"Of oak.{STOP}"], ASKED: [WHEEL]}, "numbers"),
        ({ASKED: [" of Mr Brown?", WHEEL]}, "names"),
        ({WHEEL: [f"It was old Brown.{STOP}", f"Of oak.{STOP}"], ASKED: [WHEEL]}, "names"),
        ({WHEEL: ["Of elm, and so on", f"Of oak.{STOP}"], ASKED: [WHEEL]}, "unfinished_answer"),
        ({WHEEL: [STOP, f"Of oak.{STOP}"], ASKED: [WHEEL]}, "empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_dropped_is_counted_and_tried_anew(
    llama: Backbone, script: Mapping[str, Sequence[str]], reason: str
) -> None:
    block, _ = block_of(llama, {WHEEL: [f"Of oak.{STOP}"], **script})

    assert [conversation.answer for conversation in block.conversations] == ["Of oak."]
    assert (block.asked, block.dropped, block.given_up) == (2, {reason: 1}, 0)


@pytest.mark.parametrize(
    ("reply", "expected"), [("It is of oak. It was", "It is of oak."), ("- wheat\n- rye\n- bar", "- wheat\n- rye")]
)
def test_an_answer_that_is_too_long_is_cut_after_its_last_end(llama: Backbone, reply: str, expected: str) -> None:
    block, _ = block_of(llama, {WHEEL: [reply], ASKED: [WHEEL]})

    assert [conversation.answer for conversation in block.conversations] == [expected]


@pytest.mark.parametrize(
    ("reply", "expected"), [(" the parts of the wheel:\n", " the parts of the wheel"), (' it". And go on', ' it".')]
)
def test_a_request_ends_with_its_sentence_or_its_line(llama: Backbone, reply: str, expected: str) -> None:
    slot = Slot(kind="summarising", chunk=(0, 20), number=0)

    block, _ = block_of(llama, {"Write the request alone.": [reply], expected: [f"Oak.{STOP}"]}, [slot])

    assert [conversation.question.endswith(expected) for conversation in block.conversations] == [True]


def test_after_the_last_attempt_a_conversation_is_given_up(llama: Backbone) -> None:
    block, inputs = block_of(llama, {ASKED: ["no end"]}, attempts=3)

    assert (list(block.conversations), list(block.teacher), block.given_up) == ([], [], 1)
    assert len(inputs.prompts) == block.asked == 3


def test_names_of_the_document_are_kept_and_others_where_they_are_not_checked(llama: Backbone) -> None:
    known, _ = block_of(llama, {WHEEL: [f"By old Weiss.{STOP}"], ASKED: [WHEEL]})
    unchecked, _ = block_of(llama, {WHEEL: [f"By old Brown.{STOP}"], ASKED: [WHEEL]}, check_names=False)

    assert (known.dropped, known.given_up) == (unchecked.dropped, unchecked.given_up) == ({}, 0)


@pytest.mark.parametrize(("temperature", "tries"), [(0.0, 1), (0.3, 3)])
def test_a_greedy_answer_to_a_given_question_is_not_tried_again(
    llama: Backbone, temperature: float, tries: int
) -> None:
    own = Slot(kind="own", chunk=(0, 20), question="Who came?", number=0)

    block, inputs = block_of(
        llama, {"Who": [f"It was old Brown.{STOP}"]}, [own], attempts=3, answer_temperature=temperature
    )

    assert (len(inputs.prompts), block.dropped, block.given_up) == (tries, {"names": tries}, 1)


def test_passages_stand_in_the_place_of_questions_and_answers(llama: Backbone) -> None:
    slot = Slot(kind="continuation", chunk=(0, 40), number=0)

    block, inputs = block_of(llama, {}, [slot], passages=True)

    [conversation] = block.conversations
    chunk = inputs.document.text_of((0, 40))
    assert inputs.prompts == []
    assert f"{conversation.question} {conversation.answer}" in chunk
    assert len(conversation.question.split()) >= 3
    assert len(block.teacher[0].token_ids) <= inputs.settings.max_answer_tokens


def test_no_question_is_kept_twice(llama: Backbone) -> None:
    given = [Slot(kind="own", chunk=(0, 9), question=text, number=n) for n, text in enumerate(["Who?", "who"])]
    inputs = scripted_inputs(llama, {"ho": [f"Anna.{STOP}"]}, attempts=2)

    block = make_block(inputs, given, known={"why"})

    assert [conversation.question for conversation in block.conversations] == ["Who?"]
    assert (block.dropped, block.given_up) == ({"repeated": 2}, 1)
    assert make_block(inputs, given[:1], known={"who"}).given_up == 1


def test_several_questions_of_one_call_share_a_chunk(llama: Backbone) -> None:
    slot = Slot(kind="question", chunk=(0, 20), wanted=3, number=4)
    listed = f"{WHEEL}\n2. Who has 1999 cats?\n3. Who eats the rye?\n4. Who is the fourth?{STOP}"
    script = {"as a numbered list": [listed], ASKED: [RYE], "eats": [f"Villages.{STOP}"], "oak?": [f"Anna.{STOP}"]}

    block, _ = block_of(llama, {**script, RYE: [f"Nine.{STOP}"]}, [slot], questions_per_call=3)

    # The second one is dropped, and the next attempt asks for one question alone.
    assert [conversation.id for conversation in block.conversations] == [f"question-00004-{n}" for n in range(3)]
    assert [conversation.answer for conversation in block.conversations] == ["Anna.", "Villages.", "Nine."]
    assert (block.asked, block.dropped) == (4, {"numbers": 1})


def test_a_given_question_is_answered_as_it_is(llama: Backbone) -> None:
    own = Slot(kind="own", chunk=(0, 20), question="In 1999, what of this text?", number=0)
    general = Slot(kind="general", chunk=None, question="Why 7?", number=1)
    script = {"1999": [f"Not in 1999.{STOP}"], "Why 7": [f"As 7 follows 6.{STOP}"]}

    block, inputs = block_of(llama, script, [own, general])

    assert [conversation.question for conversation in block.conversations] == [own.question, general.question]
    assert "Answer with the help" in inputs.prompts[0]
    assert "Answer with the help" not in inputs.prompts[1]
    assert MILL[:8] not in inputs.prompts[1]


def test_a_slot_draws_a_seed_of_its_own_for_each_purpose_and_attempt() -> None:
    draws = {
        slot.draw(purpose, attempt, seed)
        for slot in SLOTS
        for purpose in ("question", "answer")
        for attempt in range(2)
        for seed in range(2)
    }

    assert len(draws) == 16
