"""Conversations of a self-study, their teacher, and what is replayed of an older one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.made_up_studies import NOBODY, PROMPT, conversations, write_untaught_study
from support.tiny_runs import embedded_tokenizer

from ptl_prefix.backbones.model_inputs import Padding
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.collation import collate_training
from ptl_prefix.data.encoding import encode_split
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.data.task import Task
from ptl_prefix.data.tasks.distillation import Distillation
from ptl_prefix.errors import DataError


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter(embedded_tokenizer(), PROMPT)


@pytest.fixture(scope="module")
def studies(prompter: Prompter, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a self-study and of an older, smaller one."""
    folder = tmp_path_factory.mktemp("studies")
    write_untaught_study(folder / "new", prompter, number=4, version=1)
    write_untaught_study(folder / "old", prompter, number=3)
    return {"new": str(folder / "new"), "old": str(folder / "old")}


def test_rendering_is_golden(studies: dict[str, str], tmp_path: Path, check_golden: Callable[[Task], None]) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "Who built the harbour?", "answer": "The bakers."}\n')

    check_golden(Distillation(self_study=studies["new"], questions_file=str(questions)))


def test_the_teacher_of_a_subset_is_that_of_its_rows(
    studies: dict[str, str], prompter: Prompter, tmp_path: Path
) -> None:
    task = Distillation(self_study=studies["new"], replay=studies["old"], num_train_examples=9, subset_seed=3)
    settings = DataSettings(cache_dir=str(tmp_path))

    encoded = encode_split(task, "train", prompter, max_tokens=None, settings=settings)

    batch = collate_training(encoded.rows(range(9)), Padding(1), encoded.teacher)
    assert batch.teacher is not None
    assert batch.labels is not None
    # This teacher is sure of the tokens that are the labels.
    is_label = batch.labels >= 0
    assert (batch.teacher.ids[..., 0][is_label] == batch.labels[is_label]).all()
    assert (batch.teacher.log_probs[is_label] == 0).all()
    assert batch.teacher.log_probs[~is_label].isneginf().all()
    next_token = encode_split(
        Distillation(self_study=studies["new"], loss="next_token"),
        "train",
        prompter,
        max_tokens=None,
        settings=settings,
    )
    assert next_token.teacher is None


def test_an_answer_that_would_be_cut_is_left_out(studies: dict[str, str], prompter: Prompter, tmp_path: Path) -> None:
    task = Distillation(self_study=studies["new"])
    settings = DataSettings(cache_dir=str(tmp_path), max_target_tokens=8)

    encoded = encode_split(task, "train", prompter, max_tokens=None, settings=settings)

    assert 0 < encoded.report.num_dropped < encoded.report.num_pairs
    assert encoded.report.num_truncated_target == 0
    assert (encoded.lengths - encoded.num_source_ids).max() <= 8


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_replay_adds_conversations_of_the_older_document(studies: dict[str, str], share: float) -> None:
    new = [one for one in conversations(4, version=1) if one.split == "train"]

    task = Distillation(self_study=studies["new"], replay=studies["old"], replay_share=share)

    rows = task.examples("train")
    old = {one.answer for one in conversations(3)}
    assert [row["targets"][0] for row in rows][: len(new)] == [one.answer for one in new]
    replayed = [row["targets"][0] for row in rows][len(new) :]
    assert set(replayed) <= old
    there_are = sum(one.split == "train" for one in conversations(3))
    assert len(replayed) == min(there_are, round(len(new) * share / (1 - share)))
    assert (
        task.examples("validation").to_list()
        == Distillation(self_study=studies["new"]).examples("validation").to_list()
    )
    assert task.document_sha256 != Distillation(self_study=studies["old"]).document_sha256


def test_another_tokenizer_is_refused_and_other_weights_are_noted(studies: dict[str, str]) -> None:
    task = Distillation(self_study=studies["new"])

    assert task.backbone_problems(NOBODY) == []
    assert task.notes == ()
    assert task.backbone_problems(replace(NOBODY, name="small", weights_fingerprint="other")) == []
    assert task.notes == ("the teacher is nobody, whose weights are not those of small",)
    other = replace(NOBODY, tokenizer_fingerprint="other")
    assert "must be made with the tokenizer of the backbone" in task.backbone_problems(other)[0]
    assert Distillation(self_study=studies["new"], loss="next_token").backbone_problems(other) == []


def test_mistakes_are_sentences(studies: dict[str, str], tmp_path: Path) -> None:
    assert "must be the folder of a self-study, but is null" in Distillation(self_study=None).problems()[0]
    missing = Distillation(self_study=str(tmp_path), replay=str(tmp_path / "none"), questions_file="none.jsonl")
    assert [problem.split("`")[1] for problem in missing.problems()] == [
        "task.self_study",
        "task.replay",
        "task.questions_file",
    ]
    with pytest.raises(DataError, match="has no test split"):
        Distillation(self_study=studies["new"]).examples("test")
