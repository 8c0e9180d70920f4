"""Tokens beside those of the Java program that they stand in for, on made-up and on real texts."""

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptl_prefix.evaluation.ptb_tokens import caption_words, ptb_tokens


@pytest.fixture(scope="module")
def stanford_jar() -> Path:
    """The program, where Java and pycocoevalcap are."""
    tokenizer = pytest.importorskip("pycocoevalcap.tokenizer", reason="needs pycocoevalcap: pip install .[meteor]")
    if shutil.which("java") is None:
        pytest.skip("needs Java")
    return Path(tokenizer.__path__[0]) / "stanford-corenlp-3.4.1.jar"


def java_words(texts: list[str], jar: Path, folder: Path) -> list[tuple[str, ...]]:
    """What COCO's code keeps of the program's tokens. A line between texts keeps each from looking into the next."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    file = folder / "texts.txt"
    file.write_text("".join(f"{text}\nx\n" for text in texts), encoding="utf-8", newline="")
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer"]
    done = subprocess.run(
        [*command, "-preserveLines", "-lowerCase", file], capture_output=True, timeout=300, check=True
    )
    lines = done.stdout.decode("utf-8").split("\n")[: 2 * len(texts)]
    assert {line.strip() for line in lines[1::2]} == {"x"}
    return [tuple(word for word in line.split(" ") if word and word not in PUNCTUATIONS) for line in lines[::2]]


def e2e_references(data: Path, *names: str) -> Iterable[str]:
    for name in names:
        with (data / "e2e" / name).open(encoding="utf-8", newline="") as file:
            yield from (row["ref"] for row in csv.DictReader(file))


def webnlg_texts(data: Path, *names: str) -> Iterable[str]:
    for name in names:
        for line in (data / "webnlg" / name).read_text(encoding="utf-8").splitlines():
            yield from json.loads(line)["lexs"]


def dialogsum_summaries(data: Path, *names: str) -> Iterable[str]:
    for name in names:
        for line in (data / "dialogsum" / name).read_text(encoding="utf-8").splitlines():
            yield from (text for key, text in json.loads(line).items() if key.startswith("summary"))


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (e2e_references, ["testset_w_refs.csv"]),
        (webnlg_texts, ["test.jsonl"]),
        (dialogsum_summaries, ["test.jsonl"]),
        pytest.param(e2e_references, ["trainset.csv", "devset.csv"], marks=pytest.mark.slow),
        pytest.param(webnlg_texts, ["train.jsonl", "dev.jsonl"], marks=pytest.mark.slow),
    ],
)
def test_real_texts_are_cut_as_by_the_program(
    texts: Callable[..., Iterable[str]], names: list[str], data_folder: Path, stanford_jar: Path, tmp_path: Path
) -> None:
    read = [" ".join(text.split()) for text in dict.fromkeys(texts(data_folder / "data", *names))]

    theirs = java_words(read, stanford_jar, tmp_path)

    assert len(read) > 1000
    assert [text for text, words in zip(read, theirs, strict=True) if caption_words(text) != words] == []


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The Eagle is a pub.", "the eagle is a pub ."),
        ("It's cheap, isn't it?", "it 's cheap , is n't it ?"),
        ("They can't; you cannot, I'm gonna.", "they ca n't ; you can not , i 'm gon na ."),
        ("a family-friendly, low-cost café", "a family-friendly , low-cost café"),
        ("£20-25 or €3.50 or $40", "# 20-25 or $ 3.50 or $ 40"),
        ("5 out of 5; 5/5; 1,000.5; 4 1/2", "5 out of 5 ; 5/5 ; 1,000.5 ; 4\xa01/2"),
        ("20 -25 at -3.5 m", "20 -25 at -3.5 m"),
        ('"Blue Spice" (x) [y] {z}', "`` blue spice '' -lrb- x -rrb- -lsb- y -rsb- -lcb- z -rcb-"),
        ("\u201cBlue\u201d \u2013 the St. John\u2019s \u2026", "`` blue '' -- the st. john 's ..."),
        ("Dr. G. Hall of the U.S. Air Force", "dr. g. hall of the u.s. air force"),
        ("born in the U.S. The end", "born in the u.s. . the end"),
        ("Edwin Aldrin, Jr. was", "edwin aldrin , jr. was"),
        ("Aldrin, Jr. The", "aldrin , jr. . the"),
        ("at 5 p.m., on 14/07/1999", "at 5 p.m. , on 14/07/1999"),
        ("food., No. 5, No. Yes", "food. , no. 5 , no . yes"),
        ("R&D, A&B, a & b &amp; c", "r&d , a&b , a & b & c"),
        ("see www.x.org or https://x.org/a-b.", "see www.x.org or https://x.org/a-b ."),
        ("#Person1# @you me@x.org", "#person 1 # @you me@x.org"),
        ("O'Donnell's d'oeuvre 'n' rock 'em '90s", "o'donnell 's d'oeuvre 'n' rock 'em '90s"),
        ("wow!!! well... hm -- ---- -", "wow !!! well ... hm -- -- -"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_texts_are_cut_into_penn_treebank_tokens(text: str, tokens: str) -> None:
    assert ptb_tokens(text) == (tokens.split(" ") if tokens else [])


@given(st.text(st.sampled_from("aBé1 .,'\"-’“”£$&/()[]?!:;#@_\n…–%\u0301"), max_size=25))
def test_every_text_is_cut_without_losing_a_letter_or_digit(text: str) -> None:
    def letters(written: str) -> str:
        return "".join(character for character in written.lower() if character in "abé1")

    tokens = ptb_tokens(text)

    assert all(tokens)
    assert letters(re.sub("-[lr][rs]b-", "", " ".join(tokens))) == letters(text)


def test_the_words_of_a_caption_have_no_punctuation_but_brackets() -> None:
    assert caption_words("The Eagle (a pub), isn't \"cheap\": £20-25...") == (
        "the", "eagle", "-lrb-", "a", "pub", "-rrb-", "is", "n't", "cheap", "#", "20-25",
    )  # fmt: skip
