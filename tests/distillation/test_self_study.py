"""A self-study as a whole: made once, resumed after a kill, and refused where it cannot be made."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support.scripted_study import MILL

from ptl_prefix.artifacts.self_study import SelfStudy, StudyConversation, read_self_study
from ptl_prefix.artifacts.unfinished_self_study import UnfinishedSelfStudy
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.distillation import self_study
from ptl_prefix.distillation.block import make_block
from ptl_prefix.distillation.filters import normalized
from ptl_prefix.distillation.own_questions import read_questions
from ptl_prefix.distillation.plan import plan_slots
from ptl_prefix.distillation.seeds import GENERAL_INSTRUCTIONS, SEEDS
from ptl_prefix.distillation.self_study import make_self_study
from ptl_prefix.distillation.settings import SelfStudySettings, backbone_problems
from ptl_prefix.errors import DataError, RunError

SMALL: Mapping[str, Any] = {
    "chunk_tokens": 16,
    "num_conversations": 5,
    "general_share": 0.2,
    "validation_share": 0.2,
    "max_question_tokens": 16,
    "max_answer_tokens": 8,
    "batch_size": 2,
    "attempts": 2,
    "top_k": 4,
    "check_numbers": False,
    "check_names": False,
}
"""What fits the 64 positions of the tiny backbones, whose replies are random text."""


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "manual.txt"
    path.write_text(MILL, encoding="utf-8")
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


Make = Callable[..., Path]


@pytest.fixture
def make(llama: Backbone, document: Path, tmp_path: Path) -> Make:
    def make(cache: str = "cache", *, settings: Mapping[str, Any] = {}, **callbacks: Any) -> Path:
        chosen = SelfStudySettings(**{**SMALL, **settings})
        return make_self_study(document, llama, chosen, cache=tmp_path / cache, **callbacks)

    return make


def test_a_base_model_continues_passages_of_the_document(make: Make, llama: Backbone) -> None:
    told: list[str] = []
    progress: list[tuple[int, int]] = []

    study = read_self_study(make(notify=told.append, on_progress=lambda *numbers: progress.append(numbers)))

    kinds = [conversation.kind for conversation in study.conversations]
    assert set(kinds) == {"continuation", "general"}
    about = [one for one in study.conversations if one.kind == "continuation"]
    assert all(one.chunk is not None and one.question in MILL for one in about)
    general = [one for one in study.conversations if one.kind == "general"]
    assert all(one.chunk is None and one.question in GENERAL_INSTRUCTIONS for one in general)
    assert study.facts.context_place == "text"
    assert study.facts.counts.kept == len(kinds) == 6 - study.facts.counts.given_up
    assert len(study.split("validation")) == 1
    assert progress == [(0, 6), (2, 6), (4, 6), (6, 6)]
    assert study.facts.coverage == pytest.approx(
        sum(one.chunk[1] - one.chunk[0] for one in about if one.chunk) / study.facts.document_tokens
    )
    assert any("conversations of" in line for line in told)
    assert any("times; below 5" in line for line in told)
    _check_answers(study, llama)


def _check_answers(study: SelfStudy, backbone: Backbone) -> None:
    """The teacher's ids are those that a student is given, and its numbers those of a forward pass after the chunk."""
    prompter = backbone.prompter(study.facts.prompt)
    inputs = self_study.StudyDocument(study.document, backbone)
    for one in study.conversations:
        found = study.teacher(one.id)
        assert found.token_ids.tolist() == prompter.tokenize_targets([one.answer])[0] + prompter.after_ids
        text = one.question if one.chunk is None else f"{inputs.text_of(one.chunk)}\n\n{one.question}"
        prompt = prompter.encode_source(text)
        with torch.no_grad():
            ids = torch.tensor([prompt + found.token_ids.tolist()])
            expected = backbone.model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        kept = found.top_ids >= 0
        gathered = expected.gather(1, found.top_ids.long().clamp(min=0))
        torch.testing.assert_close(found.top_log_probs[kept], gathered[kept], rtol=1e-4, atol=1e-4)


def test_the_same_study_is_made_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make()
    before = files_of(folder)
    monkeypatch.setattr(self_study, "make_block", lambda *_: pytest.fail("generated again"))

    assert make() == folder
    assert files_of(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    "settings",
    [{"seed": 1}, {"top_k": 5}, {"chunk_tokens": 17}, {"answer_temperature": 0.9}, {"passages": True}],
    ids=str,
)
def test_other_settings_are_another_study(make: Make, settings: Mapping[str, Any]) -> None:
    assert make(settings={"num_conversations": 1}) != make(settings={"num_conversations": 1, **settings})


def test_every_setting_is_part_of_the_hash() -> None:
    assert {*SelfStudySettings().stored([])} == {*inspect.signature(SelfStudySettings).parameters}


def test_a_study_of_passages_generates_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptl_prefix.distillation.study_inputs.decode_prompts", lambda *_, **__: pytest.fail("asked"))

    study = read_self_study(make(settings={"passages": True, "max_answer_tokens": 16}))

    assert {one.kind for one in study.conversations} == {"continuation"}
    assert all(one.answer and one.answer in MILL for one in study.conversations)
    [problem] = SelfStudySettings(passages=True, questions="own.txt").problems()
    assert "`self_study.questions` must be null with `self_study.passages`" in problem


def test_a_generation_that_is_interrupted_at_any_write_is_resumed_to_the_same_folder(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make("whole")
    num_writes, limit = 0, 0

    def interrupted(write: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: Any) -> None:
            nonlocal num_writes
            num_writes += 1
            if num_writes > limit:
                raise KeyboardInterrupt
            write(*arguments)

        return counted

    # Of three blocks two files each, the finished folder, and what is removed after it.
    for limit in range(8):
        num_writes, cache = 0, f"killed {limit}"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", interrupted(os.replace))
            patch.setattr(os, "rename", interrupted(os.rename))
            patch.setattr(UnfinishedSelfStudy, "remove", interrupted(UnfinishedSelfStudy.remove))
            make(cache)
        left = {path.suffix for path in (whole.parents[1] / cache).iterdir() if not path.name.startswith(".")}
        assert left == ({"", ".unfinished"} if limit == 7 else {".unfinished"})

        resumed = make(cache)

        assert files_of(resumed) == files_of(whole)
        assert [path.name for path in resumed.parent.iterdir()] == [whole.name]


def test_a_resumed_generation_reads_the_blocks_that_are_there(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(on_progress=stopped)
    numbers: list[int] = []
    questions: set[str] = set()

    def counted(inputs: Any, slots: Any, known: Any) -> Any:
        numbers.extend(slot.number for slot in slots)
        questions.update(known)
        return make_block(inputs, slots, known)

    monkeypatch.setattr(self_study, "make_block", counted)
    study = read_self_study(make())

    assert numbers == [4, 5]
    earlier = [one for one in study.conversations if int(one.id.rpartition("-")[2]) < 4]
    assert questions == {normalized(one.question) for one in earlier} != set()


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.1, 1), (0.5, 2)])
def test_a_share_of_the_conversations_is_held_out(share: float, expected: int) -> None:
    conversations = [
        StudyConversation(id=str(number), kind="own", split="train", chunk=None, question="Q", answer="A")
        for number in range(4)
    ]

    found = self_study._with_splits(conversations, SelfStudySettings(validation_share=share))

    assert [one.split for one in found].count("validation") == expected
    # What else is there moves none by itself: a hash of the id decides the order.
    first = [one.id for one in found if one.split == "validation"]
    again = self_study._with_splits(conversations[::-1], SelfStudySettings(validation_share=share))
    assert {one.id for one in again if one.split == "validation"} == set(first)


_KILLED = """
import sys
from pathlib import Path
from ptl_prefix import load_backbone
from ptl_prefix.distillation.self_study import make_self_study
from ptl_prefix.distillation.settings import SelfStudySettings
import json, time
backbone, document, cache, settings = sys.argv[1:]
make_self_study(document, load_backbone(backbone, name="llama", dtype="float32"),
    SelfStudySettings(**json.loads(settings)), cache=Path(cache), on_progress=lambda done, total: time.sleep(0.5))
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_what_the_next_one_finishes(
    make: Make, tiny_folders: dict[str, Path], document: Path, tmp_path: Path
) -> None:
    whole, cache = make("whole"), tmp_path / "killed"
    arguments = [str(tiny_folders["llama"]), str(document), str(cache), json.dumps(dict(SMALL))]
    process = subprocess.Popen([sys.executable, "-c", _KILLED, *arguments])
    deadline = time.monotonic() + 300
    while not list(cache.glob("*.unfinished/block-00000.json")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.suffix for path in cache.iterdir()] == [".unfinished"]

    assert files_of(make("killed")) == files_of(whole)
    assert len(list(cache.iterdir())) == 1


def test_two_processes_do_not_generate_the_same_study(make: Make) -> None:
    folder = make()
    shutil.rmtree(folder)

    unfinished = folder.with_name(f"{folder.name}.unfinished")
    with UnfinishedSelfStudy(unfinished), pytest.raises(RunError, match="another process is writing"):
        make()


def test_a_damaged_study_is_refused_and_not_generated_over(make: Make) -> None:
    folder = make()
    (folder / "document.txt").write_text("other")

    with pytest.raises(DataError, match="remove its folder, and make it again"):
        make()


def test_a_study_without_conversations_says_why(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptl_prefix.distillation.block.answer_problem", lambda *_, **__: "echo")

    with pytest.raises(DataError, match=r"must keep a conversation, but all 12 were dropped \(.*echo"):
        make()


# Refusals


def test_an_encoder_decoder_is_refused_by_name(encoder_decoder: Backbone, document: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"decoder-only backbone.* but {encoder_decoder.name} is an encoder-decoder"):
        make_self_study(document, encoder_decoder, SelfStudySettings(**SMALL), cache=tmp_path)


def test_a_chunk_that_does_not_fit_is_refused_with_the_one_that_does(llama: Backbone) -> None:
    fits = SelfStudySettings(**{**SMALL, "chunk_tokens": 24})
    [problem] = backbone_problems(SelfStudySettings(**{**SMALL, "chunk_tokens": 25}), llama)

    assert backbone_problems(fits, llama) == []
    assert "must fit the 64 positions of llama" in problem
    assert "set self_study.chunk_tokens=24 or less" in problem


def test_a_chunk_is_measured_before_weights_are_loaded() -> None:
    shape = BackboneSpec(name="tiny", path="tiny_gpt2").load_shape()

    [problem] = backbone_problems(SelfStudySettings(), shape)

    assert "512 positions of tiny" in problem


def test_a_question_that_does_not_fit_is_refused(make: Make, tmp_path: Path) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("Why? " * 20)

    with pytest.raises(DataError, match="must fit the 64 positions of llama, but one needs"):
        make(settings={"questions": str(questions)})


def test_settings_that_contradict_each_other_are_refused() -> None:
    problems = SelfStudySettings(chunk_tokens=20, min_chunk_tokens=30, temperature=1e-9).problems()

    assert ["min_chunk_tokens" in problems[0], "self_study.temperature" in problems[1]] == [True, True]
    assert SelfStudySettings().problems() == []


# The plan


def test_kinds_take_turns_and_shares_are_kept(llama: Backbone) -> None:
    document = self_study.StudyDocument(MILL * 30, llama)
    settings = SelfStudySettings(chunk_tokens=100, coverage=5.0, general_share=0.1)

    slots = plan_slots(document, settings, ["Who built the mill?"], asks=True)

    kinds = [slot.kind for slot in slots]
    counts = {seed.kind: kinds.count(seed.kind) for seed in SEEDS}
    assert max(counts.values()) - min(counts.values()) <= 1
    assert kinds[0] == "own"
    assert kinds.count("general") == round(0.1 * len(slots))
    assert [slot.number for slot in slots] == list(range(len(slots)))
    covered = sum(slot.chunk[1] - slot.chunk[0] for slot in slots[1:] if slot.chunk)
    assert 5.0 <= covered / document.num_tokens < 5.1


def test_a_kind_that_is_named_twice_is_asked_twice_as_often(llama: Backbone) -> None:
    document = self_study.StudyDocument(MILL, llama)
    settings = SelfStudySettings(
        chunk_tokens=16, num_conversations=6, general_share=0.0, kinds=["fact", "fact", "question"]
    )

    slots = plan_slots(document, settings, [], asks=True)

    assert [slot.kind for slot in slots] == ["fact", "fact", "question"] * 2


def test_a_number_of_conversations_is_kept_with_several_questions_a_call(llama: Backbone) -> None:
    document = self_study.StudyDocument(MILL, llama)
    settings = SelfStudySettings(chunk_tokens=16, num_conversations=7, questions_per_call=3, general_share=0.0)

    slots = plan_slots(document, settings, [], asks=True)

    assert [slot.wanted for slot in slots] == [3, 3, 1]


def test_instructions_that_are_not_about_the_document_are_many_and_distinct() -> None:
    assert len(set(GENERAL_INSTRUCTIONS)) == len(GENERAL_INSTRUCTIONS) >= 60


# The user's own questions


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.txt", 'Who?\n\n  Why, {"x"}? \nWho?\n'),
        ("q.jsonl", '{"question": " Who?", "answer": "Anna"}\n{"question": "Why, {\\"x\\"}?"}\n'),
    ],
)
def test_questions_are_read_as_text_or_as_json(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)

    assert read_questions(tmp_path / name) == ["Who?", 'Why, {"x"}?']


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        ("q.jsonl", '{"question": "Who?"}\n{"query": "Why?"}', r"line 2: a question must be .* but it is None"),
        ("q.jsonl", "Who?", "line 1: .* is not JSON"),
        ("q.txt", "\n \n", "has none"),
    ],
)
def test_what_is_no_question_is_refused_with_its_line(tmp_path: Path, name: str, content: str, fact: str) -> None:
    (tmp_path / name).write_text(content)

    with pytest.raises(DataError, match=fact):
        read_questions(tmp_path / name)


def test_own_questions_are_answered_with_their_chunk(make: Make, tmp_path: Path) -> None:
    questions = tmp_path / "questions.txt"
    questions.write_text("Of what is it?\n")

    study = read_self_study(make(settings={"questions": str(questions), "num_conversations": 1}))

    [own] = [conversation for conversation in study.conversations if conversation.kind == "own"]
    assert own.question == "Of what is it?"
    assert own.chunk is not None
    assert study.facts.settings["questions"] == ["Of what is it?"]
