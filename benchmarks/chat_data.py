"""Makes a small set of conversations: `python -m benchmarks.chat_data DATA OUT`.

In: a folder with `banking77/` and `dialogsum/`, the released files of the two data sets. Out: `train.jsonl`,
`validation.jsonl` and `test.jsonl` for `task=chat`, with OpenAI's `messages`. Half of the conversations sort a bank
customer's message, after a message of the system; the other half ask for a summary of a dialogue, and then for a title.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ptl_prefix.data.file_rows import read_rows

Messages = list[dict[str, str]]
SIZES = {"train": 800, "validation": 80, "test": 80}
"""Conversations of each split; the same number of either kind."""
_SYSTEM = "You sort the messages of a bank's customers. Answer with the intent, in lower case, and nothing else."
_FILES = {
    "train": ("banking77/train.csv", "dialogsum/train.jsonl"),
    "validation": ("banking77/train.csv", "dialogsum/dev.jsonl"),
    "test": ("banking77/test.csv", "dialogsum/test.jsonl"),
}


def intent(cells: dict[str, Any]) -> Messages:
    """A customer's message, and its intent."""
    return [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": cells["text"]},
        {"role": "assistant", "content": cells["category"].replace("_", " ").lower()},
    ]


def summary(cells: dict[str, Any]) -> Messages:
    """A dialogue, its summary, and its title. The test split has several of both; the first ones are taken."""
    return [
        {"role": "user", "content": f"Summarise this dialogue in a sentence or two.\n\n{cells['dialogue']}"},
        {"role": "assistant", "content": cells["summary" if "summary" in cells else "summary1"]},
        {"role": "user", "content": "Give it a title."},
        {"role": "assistant", "content": cells["topic" if "topic" in cells else "topic1"]},
    ]


def conversations(data: Path, split: str) -> Iterator[Messages]:
    """The conversations of a split, in an order that is drawn once for all."""
    number, draw = SIZES[split] // 2, random.Random(0)
    for file, form in zip(_FILES[split], (intent, summary), strict=True):
        rows = [row.cells for row in read_rows(data / file)]
        draw.shuffle(rows)
        # The validation split of banking77 is the end of its training file.
        yield from map(form, rows[-number:] if split == "validation" else rows[:number])


def main(data: Path, out: Path) -> None:
    """Write the files of all splits."""
    out.mkdir(parents=True, exist_ok=True)
    for split in SIZES:
        made = list(conversations(data, split))
        random.Random(1).shuffle(made)
        lines = [json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in made]
        (out / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{out / split}.jsonl: {len(made)} conversations")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
