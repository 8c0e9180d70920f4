"""A self-study's folder: what is written is read back, and what was damaged, forged or left unfinished is refused."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ptl_prefix.artifacts import self_study
from ptl_prefix.artifacts.bundle import BackboneIdentity
from ptl_prefix.artifacts.conversation import ContextPlace, Message, with_context
from ptl_prefix.artifacts.json_document import DocumentError
from ptl_prefix.artifacts.prompt_format import ChatFormat, PromptFormat
from ptl_prefix.artifacts.self_study import (
    SelfStudy,
    SelfStudyFacts,
    StudyConversation,
    StudyCounts,
    TeacherTokens,
    read_self_study,
    write_self_study,
)
from ptl_prefix.artifacts.teacher_file import parse_teacher, teacher_bytes
from ptl_prefix.artifacts.unfinished_self_study import StudyBlock, UnfinishedSelfStudy
from ptl_prefix.errors import DataError, RunError

DOCUMENT = "The mill was built in 1820.\nIt grinds wheat.\n"
QUESTION = StudyConversation(
    id="question-00000", kind="question", split="train", chunk=(0, 7), question='Who "built"\u2028it?', answer="Ünser."
)
GENERAL = StudyConversation(
    id="general-00001", kind="general", split="validation", chunk=None, question="Why?", answer="So."
)


def answer_of(length: int, kept: int = 3) -> TeacherTokens:
    """Log-probabilities of an answer, of which the last token's have fewer ids."""
    ids = torch.arange(length * kept, dtype=torch.int32).view(length, kept)
    log_probs = torch.full((length, kept), -0.5) - torch.arange(kept)
    ids[-1, 1:], log_probs[-1, 1:] = -1, -math.inf
    return TeacherTokens(token_ids=ids[:, 0].clone(), top_ids=ids, top_log_probs=log_probs)


@pytest.fixture
def facts(identity: BackboneIdentity) -> SelfStudyFacts:
    return SelfStudyFacts(
        document_sha256=hashlib.sha256(DOCUMENT.encode()).hexdigest(),
        document_tokens=14,
        backbone=identity,
        precision="bfloat16",
        prompt=PromptFormat(before="", between="", chat=ChatFormat(name="chatml", text="{{ x }}", sha256="f" * 64)),
        context_place="system",
        settings={"chunk_tokens": 7, "questions": None},
        counts=StudyCounts(asked=5, kept=2, dropped={"numbers": 3}, given_up=0, answer_tokens=6),
        coverage=0.5,
        files={},
    )


Writer = Callable[..., SelfStudy]


@pytest.fixture
def write(tmp_path: Path, facts: SelfStudyFacts) -> Writer:
    def write(*conversations: StudyConversation, facts: SelfStudyFacts = facts) -> SelfStudy:
        chosen = conversations or (QUESTION, GENERAL)
        answers = {one.id: answer_of(2 + place % 3) for place, one in enumerate(chosen)}
        return write_self_study(tmp_path / "study", facts, DOCUMENT, chosen, answers)

    return write


def assert_same(found: TeacherTokens, wanted: TeacherTokens) -> None:
    for name in ("token_ids", "top_ids", "top_log_probs"):
        assert_close(getattr(found, name), getattr(wanted, name), rtol=0, atol=0)


def test_a_folder_is_read_back_as_it_was_written(write: Writer, facts: SelfStudyFacts) -> None:
    study = read_self_study(write().folder)

    assert study.document == DOCUMENT
    assert study.conversations == (QUESTION, GENERAL)
    assert study.split("validation") == (GENERAL,)
    assert replace(study.facts, files={}) == facts
    assert_same(study.teacher("question-00000"), answer_of(2))
    assert_same(study.teacher("general-00001"), answer_of(3))


def test_log_probabilities_lie_in_several_files(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_study, "SHARD_CONVERSATIONS", 2)
    conversations = [replace(QUESTION, id=str(number)) for number in range(5)]

    study = write(*conversations)

    assert len(list(study.folder.glob("teacher-*"))) == 3
    for place in range(5):
        assert_same(study.teacher(str(place)), answer_of(2 + place % 3))


def test_a_changed_byte_of_any_file_is_refused(write: Writer) -> None:
    folder = write().folder
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for place in (0, len(content) // 2, len(content) - 2):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(DataError, match="whole and unchanged"):
                read_self_study(folder)
        path.write_bytes(content)

    assert read_self_study(folder).document == DOCUMENT


def test_a_missing_file_is_refused(write: Writer) -> None:
    folder = write().folder
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(DataError, match=f"{path.name} is missing; remove its folder"):
            read_self_study(folder)
        path.write_bytes(content)


def test_another_version_is_refused_by_name(write: Writer) -> None:
    path = write().folder / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2}))

    with pytest.raises(DataError, match="schema_version 2, and this ptl-prefix reads 1"):
        read_self_study(path.parent)


@pytest.mark.parametrize(
    ("conversations", "fact"),
    [
        ((QUESTION, QUESTION), "the id 'question-00000' twice"),
        ((replace(QUESTION, chunk=(3, 3)),), r"the chunk \(3, 3\) of a document of 14 tokens"),
        ((replace(QUESTION, chunk=(0, 15)),), r"the chunk \(0, 15\)"),
    ],
)
def test_conversations_that_cannot_be_are_not_written(
    write: Writer, tmp_path: Path, conversations: tuple[StudyConversation, ...], fact: str
) -> None:
    with pytest.raises(DataError, match=fact):
        write(*conversations)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"top_log_probs": torch.tensor([[0.1, -1.0]])},
        {"top_log_probs": torch.tensor([[-1.0, -math.inf]])},
        {"top_log_probs": torch.tensor([[math.nan, -1.0]])},
        {"top_ids": torch.tensor([[4, -2]], dtype=torch.int32)},
        {"token_ids": torch.tensor([-1], dtype=torch.int32)},
        {"token_ids": torch.tensor([1, 2], dtype=torch.int32)},
        {"top_ids": torch.tensor([[4, 5, 6]], dtype=torch.int32)},
    ],
    ids=str,
)
def test_log_probabilities_that_cannot_be_are_refused(change: dict[str, torch.Tensor]) -> None:
    whole = {
        "token_ids": torch.tensor([4], dtype=torch.int32),
        "top_ids": torch.tensor([[4, 5]], dtype=torch.int32),
        "top_log_probs": torch.tensor([[-0.5, -1.0]]),
    }
    assert len(parse_teacher(teacher_bytes([TeacherTokens(**whole)]))) == 1

    with pytest.raises(DocumentError):
        parse_teacher(teacher_bytes([TeacherTokens(**{**whole, **change})]))


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("system", [("system", "Answer with the help of this text:\n\nT"), ("user", "Q")]),
        ("user", [("user", "Answer with the help of this text:\n\nT\n\nQ")]),
        ("text", [("user", "T\n\nQ")]),
    ],
)
def test_a_text_stands_before_a_conversation(place: ContextPlace, expected: list[tuple[str, str]]) -> None:
    assert with_context([Message("user", "Q")], "T", place=place) == [Message(*one) for one in expected]  # type: ignore[arg-type]


def test_a_text_joins_the_message_of_the_system() -> None:
    messages = with_context([Message("system", "Be brief."), Message("user", "Q")], "T")

    assert [message.role for message in messages] == ["system", "user"]
    assert messages[0].content.endswith("T\n\nBe brief.")


# Unfinished


def block_of(*conversations: StudyConversation) -> StudyBlock:
    teacher = [answer_of(2) for _ in conversations]
    return StudyBlock(conversations=conversations, teacher=teacher, asked=4, dropped={"echo": 1}, given_up=1)


def test_blocks_are_there_for_the_next_process(tmp_path: Path) -> None:
    with UnfinishedSelfStudy(tmp_path / "x") as unfinished:
        unfinished.add(0, block_of(QUESTION, GENERAL))
        unfinished.add(1, block_of())

    with UnfinishedSelfStudy(tmp_path / "x") as again:
        first, second = again.read(0), again.read(1)
        assert again.read(2) is None

    assert first is not None
    assert second is not None
    assert (tuple(first.conversations), first.asked, first.dropped, first.given_up) == (
        (QUESTION, GENERAL),
        4,
        {"echo": 1},
        1,
    )
    assert_same(first.teacher[1], answer_of(2))
    assert list(second.conversations) == []


def test_a_damaged_block_counts_as_missing(tmp_path: Path) -> None:
    with UnfinishedSelfStudy(tmp_path) as unfinished:
        unfinished.add(0, block_of(QUESTION))
        for path in sorted(tmp_path.glob("block-*")):
            content = path.read_bytes()
            for damaged in (content[:-3], content[:-1] + bytes([content[-1] ^ 1])):
                path.write_bytes(damaged)
                assert unfinished.read(0) is None
            path.write_bytes(content)
        assert unfinished.read(0) is not None


def test_one_process_at_a_time_has_the_folder(tmp_path: Path) -> None:
    with UnfinishedSelfStudy(tmp_path), pytest.raises(RunError, match="one process at a time"):
        UnfinishedSelfStudy(tmp_path)
