"""Conversations in the forms that people export, and which of their replies become examples."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from ptl_prefix.artifacts.conversation import Message, messages_of
from ptl_prefix.data.encoding import encode_split
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.data.task import SPLITS, Split, Task
from ptl_prefix.data.tasks.chat import Chat
from ptl_prefix.errors import DataError

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi!"},
    {"role": "assistant", "content": " Hello. "},
    {"role": "user", "content": "Café?"},
    {"role": "assistant", "content": "Oui."},
]
SHAREGPT = [
    {"from": {"system": "system", "user": "human", "assistant": "gpt"}[one["role"]], "value": one["content"]}
    for one in CHAT
]
TEXTS = ("Be brief.", "Hi!", " Hello. ", "Café?", "Oui.")


def json_lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def chat_of(folder: Path, *rows: Any, **settings: Any) -> Chat:
    return Chat(train_file=json_lines(folder / "x.jsonl", list(rows)), **settings)


def pairs(task: Task, split: Split = "train") -> list[tuple[list[str], str]]:
    """The texts of the messages before each reply, and the reply."""
    rows = task.examples(split)
    return [([one.content for one in messages_of(row["source"])], row["targets"][0]) for row in rows]


def test_the_rendering_equals_the_golden_one(tmp_path: Path, check_golden: Callable[[Task], None]) -> None:
    files: dict[str, Any] = {
        f"{split}_file": json_lines(
            tmp_path / f"{split}.jsonl",
            [{"messages": CHAT}, {"messages": [{"role": "user", "content": f"{split} <|endoftext|>"}, CHAT[2]]}],
        )
        for split in SPLITS
    }

    check_golden(Chat(**files, chat_template="chatml"))


@pytest.mark.parametrize(
    "row",
    [
        {"messages": CHAT},
        {"messages": [{**one, "tool_calls": None, "name": "x"} for one in CHAT]},
        {"messages": [CHAT[0], {"role": "user", "content": [{"type": "text", "text": "Hi!"}]}, *CHAT[2:]]},
        {"messages": [{"role": "developer", "content": "Be brief."}, *CHAT[1:], {"role": "user", "content": "Bye"}]},
        {"messages": CHAT[1:], "system": "Be brief."},
        {"messages": json.dumps(CHAT)},
        {"conversations": SHAREGPT, "id": 7},
        {"conversation": SHAREGPT},
    ],
    ids=["openai", "more keys", "parts", "developer", "system column", "json", "sharegpt", "singular"],
)
def test_each_form_gives_the_same_examples(tmp_path: Path, row: dict[str, Any]) -> None:
    every, last = [chat_of(tmp_path, row, train_on=which) for which in ("all", "last")]

    assert pairs(every) == [(list(TEXTS[:2]), "Hello."), (list(TEXTS[:4]), "Oui.")]
    assert pairs(last) == pairs(every)[1:]
    assert every.fingerprint("train") != last.fingerprint("train")
    assert every.notes == ()


def test_an_instruction_and_its_input_are_one_message(tmp_path: Path) -> None:
    task = chat_of(
        tmp_path,
        {"instruction": "Add.", "input": "1, 2", "output": 3},
        {"instruction": "Say hi.", "input": "", "output": "hi"},
        {"instruction": "Say ho.", "context": None, "response": "ho", "system": "Sing."},
    )

    assert pairs(task) == [(["Add.\n\n1, 2"], "3"), (["Say hi."], "hi"), (["Sing.", "Say ho."], "ho")]
    assert task.examples("train")["source"][1] == "Say hi."


def test_parquet_a_saved_data_set_and_csv_are_read_alike(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list([{"talk": CHAT}, {"talk": CHAT[1:3]}])
    rows.save_to_disk(tmp_path / "saved")
    rows.to_parquet(tmp_path / "x.parquet")
    datasets.Dataset.from_list([{"talk": json.dumps(CHAT)}, {"talk": json.dumps(CHAT[1:3])}]).to_csv(tmp_path / "x.csv")

    tasks = [Chat(train_file=str(tmp_path / name), messages_column="talk") for name in ("saved", "x.parquet", "x.csv")]

    assert pairs(tasks[0]) == [*pairs(chat_of(tmp_path, {"messages": CHAT})), (["Hi!"], "Hello.")]
    assert pairs(tasks[0]) == pairs(tasks[1]) == pairs(tasks[2])


USER, REPLY = CHAT[1], CHAT[2]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}], "tool calls"),
        ([USER, REPLY, {"role": "tool", "content": "4"}, REPLY], "tool calls"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, REPLY], "images"),
        ([{"role": "moderator", "content": "x"}, REPLY], "roles other than"),
        ([USER, {"role": "assistant", "content": " "}], "an empty message"),
        ([USER, {"role": "assistant", "content": None}], "an empty message"),
        ([REPLY, USER, REPLY], "in turn"),
        ([USER, USER, REPLY], "in turn"),
        ([USER, REPLY, CHAT[0], USER, REPLY], "in turn"),
        ([USER], "no reply"),
        ([], "no reply"),
    ],
)
def test_conversations_that_cannot_be_used_are_left_out_and_counted(
    tmp_path: Path, messages: list[Any], reason: str
) -> None:
    task = chat_of(tmp_path, {"messages": messages}, {"messages": CHAT}, {"messages": messages})

    assert len(task.examples("train")) == 2
    (note,) = task.notes
    assert note.startswith("train: 2 of 3 conversations are left out, as they ")
    assert reason in note
    with pytest.raises(DataError, match=rf"must have a conversation that can be used, but has none: 1 of 1 .*{reason}"):
        chat_of(tmp_path, {"messages": messages}).examples("train")


@pytest.mark.parametrize(
    ("row", "fact"),
    [
        ({"text": "x"}, r"each row must have one of messages, .*, or instruction, but this one has text; choose"),
        ({"messages": "Hi!"}, "'messages' must be a list of messages, but is 'Hi!'"),
        ({"messages": ["Hi!"]}, "each message must be an object with `role` and `content`, or `from` and `value`"),
        ({"messages": [{"role": "user", "content": 7}]}, "the content of a message must be text, but one is 7"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "the content of a message must be text"),
        ({"instruction": "x"}, "a row with an `instruction` must have `output`"),
        ({"instruction": {}, "output": "x"}, r"'instruction' must be text, but is \{\}"),
    ],
)
def test_rows_of_no_known_form_are_refused_with_their_place(tmp_path: Path, row: Any, fact: str) -> None:
    with pytest.raises(DataError, match=rf"x\.jsonl, line 1: {fact}"):
        chat_of(tmp_path, row).examples("train")
    with pytest.raises(DataError, match="must have the column 'talk', but this one has"):
        chat_of(tmp_path, row, messages_column="talk").examples("train")


def test_replies_of_weight_0_are_read_and_not_learned(tmp_path: Path) -> None:
    task = chat_of(tmp_path, {"messages": [*CHAT[:2], {**CHAT[2], "weight": 0}, *CHAT[3:]]})

    assert pairs(task) == [(list(TEXTS[:4]), "Oui.")]


def test_conversations_that_begin_alike_are_in_one_split(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Hi {row // 2}!"},
                {"role": "assistant", "content": f"Hello {row}."},
            ]
        }
        for row in range(60)
    ]
    task = Chat(data_file=json_lines(tmp_path / "x.jsonl", rows), validation_fraction=0.3, test_fraction=0.2)

    sources = [set(task.examples(split)["source"]) for split in SPLITS]

    assert [len(task.examples(split)) for split in SPLITS] == [2 * len(part) for part in sources]
    assert len(set.union(*sources)) == sum(map(len, sources)) == 30
    assert any("of 60 conversations are the test split, chosen by a hash" in note for note in task.notes)


def test_only_replies_and_their_ends_are_trained_on(tmp_path: Path, tokenizer: Any) -> None:
    from ptl_prefix.backbones.chat_prompting import ChatPrompter

    task = chat_of(tmp_path, {"messages": CHAT}, chat_template="chatml")
    settings = DataSettings(cache_dir=str(tmp_path / "cache"))

    rows = encode_split(task, "train", ChatPrompter(tokenizer, task.prompt), max_tokens=None, settings=settings)

    trained = [tokenizer.decode(row["input_ids"][row["num_source_ids"] :]) for row in rows.rows([0, 1])]
    assert trained == ["Hello.<|endoftext|>", "Oui.<|endoftext|>"]
    read = tokenizer.decode(rows.rows([1])[0]["input_ids"][: rows.num_source_ids[1]])
    assert read.endswith("<|im_start|>user\nCafé?<|im_end|>\n<|im_start|>assistant\n")


def test_messages_are_read_back_as_they_were() -> None:
    from ptl_prefix.artifacts.conversation import readable_source, source_of

    messages = [Message("system", "s"), Message("user", '"é"\n'), Message("assistant", "a"), Message("user", "b")]
    tricky = [Message("user", json.dumps([{"role": "user", "content": "x"}]))]
    for one in (messages, messages[3:], tricky, [Message("user", "[1]")], [Message("user", '{"messages": []}')]):
        assert messages_of(source_of(one)) == one
    assert messages_of(json.dumps({"messages": CHAT[:2]})) == [Message("system", "Be brief."), Message("user", "Hi!")]
    assert readable_source(source_of(messages)) == 'system: s\nuser: "é"\n\nassistant: a\nuser: b'
    assert [readable_source(text) for text in ("plain", "[1]", '[{"role": 1}]')] == ["plain", "[1]", '[{"role": 1}]']
