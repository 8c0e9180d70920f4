"""The base class of this package's tasks.

In: the examples of a split, and everything that decides them. Out: the rest of a `Task`: numbered rows, a subset of the
training split, fingerprints.
"""

import random
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.data.example import Example, to_dataset, to_row
from ptl_prefix.data.file_rows import num_bytes
from ptl_prefix.data.task import Split, Task, fingerprint_of
from ptl_prefix.data.text_lines import OnRead
from ptl_prefix.errors import DataError

if TYPE_CHECKING:
    import datasets


class CorpusTask(Task):
    """A task that lists the examples of each split.

    Args:
        name: Name of the task in run folders and records.
        between: Text between a source and its target.
        instruction: Sentence that says what the task is, from which a method can start; it is not part of any input.
        max_source_tokens: Longest source in tokens; `None`: limited by the backbone's positions only.
        truncation: End at which an over-long source is cut, `right` or `left`; `none` refuses such a source.
        num_train_examples: Number of training examples that are used, each with all its targets; `None` is all.
            Subsets that share `subset_seed` are nested.
        subset_seed: Seed of the choice of training examples; the seed of the run does not change it.
    """

    def __init__(
        self,
        *,
        name: str,
        between: str,
        instruction: str | None,
        max_source_tokens: Annotated[int, Ge(1)] | None,
        truncation: Literal["right", "left", "none"],
        num_train_examples: Annotated[int, Ge(1)] | None,
        subset_seed: Annotated[int, Ge(0)],
    ) -> None:
        self.name, self.instruction = name, instruction
        self.prompt = PromptFormat(between=between, max_source_tokens=max_source_tokens, truncation=truncation)
        self._num_train_examples, self._subset_seed = num_train_examples, subset_seed
        self._notes: dict[str, None] = {}
        self._bytes_to_read, self._bytes_read = 0, 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What was added by `add_note`, each sentence once."""
        return tuple(self._notes)

    def add_note(self, note: str) -> None:
        """Add a sentence to `notes`, while data are read."""
        self._notes[note] = None

    @property
    def share_read(self) -> float | None:
        """The share of the bytes of its files; `None` for a task that reads none."""
        return min(1.0, self._bytes_read / self._bytes_to_read) if self._bytes_to_read else None

    def begin_reading(self, *files: Path) -> OnRead:
        """Start `share_read` anew.

        Args:
            files: Files that are about to be read.

        Returns:
            Callback for the readers of these files.
        """
        self._bytes_to_read, self._bytes_read = sum(map(num_bytes, files)), 0

        def on_read(count: int) -> None:
            self._bytes_read += count

        return on_read

    @abstractmethod
    def all_examples(self, split: Split) -> Iterable[Example]:
        """Every example of a split, without ids. Raises the errors of `examples`."""

    @abstractmethod
    def content(self, split: Split) -> object:
        """Everything besides the version that decides `all_examples`, as a value whose `repr` states it.

        Raises:
            DataError: A file is missing or malformed.
        """

    def examples(self, split: Split) -> "datasets.Dataset":
        """The examples of one split, in the order of its data; of the training split, those of the subset."""
        return to_dataset(self._selected(split))

    def rows_of(self, split: Split) -> Iterator[Mapping[str, Any]]:
        """The rows of `examples`, one at a time, as they are read."""
        return map(to_row, self._selected(split))

    def _selected(self, split: Split) -> Iterator[Example]:
        """The examples of a split with their ids; a subset reads the data twice, as it must know their number."""
        numbered = (replace(one, example_id=f"{split}-{index}") for index, one in enumerate(self.all_examples(split)))
        if split != "train" or self._num_train_examples is None:
            return numbered
        chosen = set(self._subset(sum(1 for _ in self.all_examples(split))))
        return (example for index, example in enumerate(numbered) if index in chosen)

    def fingerprint(self, split: Split) -> str:
        """A hash of everything that decides the examples, including the choice of a training subset."""
        subset = None
        if split == "train" and self._num_train_examples is not None:
            subset = (self._num_train_examples, self._subset_seed)
        return fingerprint_of(self.name, self.version, split, subset, self.content(split))

    def _subset(self, num_rows: int) -> list[int]:
        """The rows of the subset, in the order of the data: the first ones of a shuffle by the seed."""
        wanted = self._num_train_examples
        if wanted is None or wanted > num_rows:
            raise DataError(
                f"`task.num_train_examples` must be at most the {num_rows} training examples of {self.name}, "
                f"but is {wanted}; lower it, or set it to null for all of them."
            )
        # An array: a list of the rows of a large file would take more memory than everything else.
        order = array("q", range(num_rows))
        random.Random(f"{self._subset_seed} subset").shuffle(order)
        return sorted(order[:wanted])
