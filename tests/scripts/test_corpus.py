"""Reading and splitting a text corpus."""

import json
import lzma
import random
from pathlib import Path

import pytest
from corpus import hold_out, passages, read_texts

_PARAGRAPHS = (
    "It rained all day in Norham. The river rose. By noon the mill stood in water, and so did the new bridge.\n"
    "Nobody was hurt.\n"
    "The bridge was built again in 1902 by the town and by merchants from Hull, who needed it most of all people. It "
    "still stands."
)


def _passages(text: str, seed: int) -> list[list[str]]:
    return list(passages(text, random.Random(seed), min_words=4, max_words=20))


def test_json_lines_and_plain_text_are_read_compressed_or_not(tmp_path: Path) -> None:
    lines = {"a.jsonl": json.dumps({"text": "one"}), "b.txt": "two é\n\nthree\n", "c.txt.xz": "four\n"}
    for name, text in lines.items():
        open_for = lzma.open if name.endswith(".xz") else open
        with open_for(tmp_path / name, "wb") as file:
            file.write(text.encode())

    assert read_texts([tmp_path / name for name in lines]) == ["one", "two é", "three", "four"]


def test_a_line_without_text_is_refused_by_its_number(tmp_path: Path) -> None:
    for line in ("not JSON", json.dumps({"title": "Norham"}), json.dumps(["text"])):
        file = tmp_path / "bad.jsonl"
        file.write_text(json.dumps({"text": "one"}) + "\n" + line, encoding="utf-8")

        with pytest.raises(SystemExit, match=r"JSON with a column `text`, but line 2 is not"):
            read_texts([file])


def test_every_text_is_trained_on_or_held_out() -> None:
    texts = [str(number) for number in range(500)]

    seen, held_out = hold_out(texts, random.Random(0))

    assert len(held_out) == 10
    assert sorted(seen + held_out) == sorted(texts)
    assert held_out != texts[::50]


def test_passages_are_sentences_that_follow_one_another() -> None:
    joined = {" ".join(passage) for seed in range(50) for passage in _passages(_PARAGRAPHS, seed)}

    assert "It rained all day in Norham. The river rose." in joined
    assert all(any(text in paragraph for paragraph in _PARAGRAPHS.splitlines()) for text in joined)
    assert all(4 <= len(text.split()) <= 20 for text in joined)


def test_a_sentence_that_is_too_long_or_alone_too_short_is_in_no_passage() -> None:
    sentences = {sentence for seed in range(50) for passage in _passages(_PARAGRAPHS, seed) for sentence in passage}

    assert not any(sentence.startswith(("The bridge was built again", "Nobody", "It still")) for sentence in sentences)
