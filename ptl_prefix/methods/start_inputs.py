"""What a task gives a method for its initialisation: labels, an instruction, a document, and training rows as ids.

In: facts of the task, from the code that knows it. Out: `StartInputs`, which a method keeps until it is attached. A
method knows no task and reads no data by itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

_READ_ROWS = 64


@runtime_checkable
class TrainingRows(Protocol):
    """Encoded training rows, one per (source, target) pair, those of one example next to each other."""

    def __len__(self) -> int:
        """The number of rows."""

    def rows(self, indices: Sequence[int]) -> Sequence[Mapping[str, Any]]:
        """The rows at `indices`, with the keys `input_ids`, `num_source_ids` and `example`."""


class TrainingPair(NamedTuple):
    """Token ids of one training row.

    Args:
        prompt: Ids of the prompt, as the backbone reads it.
        target: Ids of the target and its end.
    """

    prompt: list[int]
    target: list[int]


@dataclass(frozen=True, kw_only=True)
class StartInputs:
    """Facts of a task that an initialisation may use.

    Args:
        read_labels: Callable that returns the closed set of the task's targets, or `None` if targets are free text. It
            may have to read data.
        instruction: Sentence that says what the task is; `None` if the task has none.
        read_document: Callable that returns the document that the task is about, or `None` if it is about none.
        training_rows: Encoded training rows; `None` before they are encoded.
        gives_rows: Whether there are training rows, at the latest when the method is attached.
    """

    read_labels: Callable[[], Sequence[str] | None] = lambda: None
    instruction: str | None = None
    read_document: Callable[[], str | None] = lambda: None
    training_rows: TrainingRows | None = None
    gives_rows: bool = False

    def words(self, init_text: str | None) -> str:
        """The words for `init=text`: the configured ones, else the task's document, else its instruction; or none."""
        if init_text is not None:
            return init_text
        return self.read_document() or self.instruction or ""


def first_pairs(rows: TrainingRows) -> Iterator[TrainingPair]:
    """The first pair of each training example, in the order of the data."""
    newest: object = None
    for start in range(0, len(rows), _READ_ROWS):
        for row in rows.rows(range(start, min(start + _READ_ROWS, len(rows)))):
            if row["example"] != newest:
                newest = row["example"]
                yield pair_of(row)


def pair_of(row: Mapping[str, Any]) -> TrainingPair:
    """Prompt and target of a row."""
    ids, num_source = list(row["input_ids"]), int(row["num_source_ids"])
    return TrainingPair(ids[:num_source], ids[num_source:])
