"""Tokens beside those of the Java program that they stand in for, on made-up and on real texts."""

import csv
import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from ptl_prefix.evaluation.ptb_tokens import caption_words


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


def e2e_references(data: Path) -> Iterable[str]:
    for name in ("devset.csv", "testset_w_refs.csv"):
        with (data / "e2e" / name).open(encoding="utf-8", newline="") as file:
            yield from (row["ref"] for row in csv.DictReader(file))


def webnlg_texts(data: Path) -> Iterable[str]:
    with (data / "webnlg/test.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield from json.loads(line)["lexs"]


def dialogsum_summaries(data: Path) -> Iterable[str]:
    with (data / "dialogsum/test.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield from (text for key, text in json.loads(line).items() if key.startswith("summary"))


@pytest.mark.parametrize(
    ("texts", "share"),
    [
        (e2e_references, 1.0),
        (webnlg_texts, 1.0),
        (dialogsum_summaries, 1.0),
    ],
)
def test_real_texts_are_cut_as_by_the_program(
    texts: object, share: float, data_folder: Path, stanford_jar: Path, tmp_path: Path
) -> None:
    read = [" ".join(text.split()) for text in dict.fromkeys(texts(data_folder / "data"))]  # type: ignore[operator]

    theirs = java_words(read, stanford_jar, tmp_path)

    different = [text for text, words in zip(read, theirs, strict=True) if caption_words(text) != words]
    assert 1 - len(different) / len(read) >= share, different[:10]
