"""The small set of conversations is made of the released files, and can be trained on."""

import shutil
from pathlib import Path

import pytest

from benchmarks import chat_data
from ptl_prefix.data.tasks.chat import Chat

RELEASED = Path(__file__).parents[1] / "data" / "released"


def test_both_kinds_of_conversations_are_in_each_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_data, "SIZES", dict.fromkeys(chat_data.SIZES, 2))
    shutil.copytree(RELEASED / "banking77", tmp_path / "banking77")
    for split in ("train", "dev", "test"):
        (tmp_path / "dialogsum").mkdir(exist_ok=True)
        shutil.copy(RELEASED / "dialogsum" / f"dialogsum.{split}.jsonl", tmp_path / "dialogsum" / f"{split}.jsonl")

    chat_data.main(tmp_path, tmp_path / "out")

    task = Chat(**{f"{split}_file": str(tmp_path / "out" / f"{split}.jsonl") for split in chat_data.SIZES})
    for split in task.splits:
        sources = task.examples(split)["source"]
        assert len(sources) == 3  # of a message, and of a dialogue's summary and its title
        assert sum("Answer with the intent" in source for source in sources) == 1
        assert sum("Give it a title" in source for source in sources) == 1
    assert task.notes == ()
