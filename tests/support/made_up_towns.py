"""A generated pretraining corpus about invented towns, in two files, one of them compressed.

In: a folder. Out: its files, JSON lines with a column `text`.
"""

import json
import lzma
import random
from pathlib import Path


def write_towns(folder: Path) -> list[Path]:
    """900 texts of two sentences."""
    rng = random.Random(0)
    towns = [f"{a}{b}" for a in ("Nor", "Sud", "Wes", "Ost") for b in ("ham", "bury", "ford", "wick", "mouth")]
    texts = []
    for town in (rng.choice(towns) for _ in range(900)):
        year, river = rng.randint(1100, 1900), rng.choice(("Ash", "Elm", "Oak"))
        texts.append(f"{town} is a small town on the river {river}. It was founded in {year} by merchants from Hull.")
    lines = [json.dumps({"text": text, "id": place}) for place, text in enumerate(texts)]
    (folder / "plain.jsonl").write_text("\n".join(lines[:600]), encoding="utf-8")
    with lzma.open(folder / "compressed.jsonl.xz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines[600:]))
    return [folder / "plain.jsonl", folder / "compressed.jsonl.xz"]
