"""The outputs of ten systems for the E2E challenge, and the scores that its organisers published.

In: the folder `e2e` of the optional data folder. Out: the predictions of one system. The files have different formats:
a byte order mark, CRLF or CR CR LF, inputs in double or single quotes, some outputs in single quotes, `Â£` or `Ł` for
£, and `Ã©` for é.
"""

import csv
from pathlib import Path

from ptl_prefix.artifacts.predictions import Prediction

SYSTEMS = "chen forge1 gong sheff2 slug tgen tr2 tuda zhang zhaw1".split()


def published_scores(folder: Path) -> dict[str, dict[str, float]]:
    """The published scores by system, then by the organisers' name of the metric."""
    with (folder / "challenge_primary/published_scores.tsv").open(encoding="utf-8", newline="") as file:
        return {
            row.pop("system"): {metric: float(value) for metric, value in row.items()}
            for row in csv.DictReader(file, delimiter="\t")
        }


def references(folder: Path) -> dict[str, tuple[str, ...]]:
    """The references of each input of the test, in the order in which inputs first appear."""
    found: dict[str, tuple[str, ...]] = {}
    with (folder / "testset_w_refs.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["mr"]] = (*found.get(row["mr"], ()), row["ref"])
    return found


def predictions_of(system: str, folder: Path) -> list[Prediction]:
    """The predictions of a system, with all references."""
    text = (folder / f"challenge_primary/{system}.tsv").read_bytes().decode("utf-8-sig")
    for foreign, letter in {"Â£": "£", "Ł": "£", "Ã©": "é"}.items():
        text = text.replace(foreign, letter)
    cells = [[_without_quotes(cell) for cell in line.split("\t")] for line in text.split("\n")[1:] if line.strip()]
    written = dict(cells)
    expected = references(folder)
    assert written.keys() == expected.keys(), f"{system} must have written for each input"
    return [
        Prediction(id=str(number), source=meaning, references=texts, hypothesis=written[meaning])
        for number, (meaning, texts) in enumerate(expected.items())
    ]


def _without_quotes(cell: str) -> str:
    text = cell.strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
