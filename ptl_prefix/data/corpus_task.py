"""What the tasks of this package do alike with their examples, wherever those come from.

In: the examples of a split and what decides them. Out: the rest of a `Task`: rows that are numbered, a subset of those
to train on, fingerprints.
"""

import random
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Literal

import datasets
from annotated_types import Ge

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.data.example import Example, as_dataset
from ptl_prefix.data.task import Split, Task, fingerprint_of
from ptl_prefix.errors import DataError


class CorpusTask(Task):
    """A task that lists the examples of each split.

    Args:
        name: Name of the task in run folders and records.
        between: Text between a source and its target.
        max_source_tokens: Longest source in tokens; `None` means whatever the backbone has room for.
        truncation: Which end of an over-long source is cut; `none` refuses it.
        num_train_examples: Number of training examples that are used, each with all its targets; `None` is all.
            Subsets that share `subset_seed` are nested.
        subset_seed: Seed that decides which training examples are used; `seed` has no influence on them.
    """

    def __init__(
        self,
        *,
        name: str,
        between: str,
        max_source_tokens: Annotated[int, Ge(1)] | None,
        truncation: Literal["right", "left", "none"],
        num_train_examples: Annotated[int, Ge(1)] | None,
        subset_seed: Annotated[int, Ge(0)],
    ) -> None:
        self.name = name
        self.prompt = PromptFormat(between=between, max_source_tokens=max_source_tokens, truncation=truncation)
        self._num_train_examples, self._subset_seed = num_train_examples, subset_seed

    @abstractmethod
    def all_examples(self, split: Split) -> Iterable[Example]:
        """Every example of a split, not numbered; raises like `examples`."""

    @abstractmethod
    def content(self, split: Split) -> object:
        """All that decides `all_examples` besides the version; its `repr` must tell. Raises like `examples`."""

    def examples(self, split: Split) -> datasets.Dataset:
        """The examples of one split, in the order of its data; to train on, those of the subset."""
        numbered = enumerate(self.all_examples(split))
        rows = as_dataset(replace(example, example_id=f"{split}-{index}") for index, example in numbered)
        return rows if split != "train" or self._num_train_examples is None else rows.select(self._subset(len(rows)))

    def fingerprint(self, split: Split) -> str:
        """Of all that decides the examples, the subset of those to train on included."""
        subset = None
        if split == "train" and self._num_train_examples is not None:
            subset = (self._num_train_examples, self._subset_seed)
        return fingerprint_of(self.name, self.version, split, subset, self.content(split))

    def _subset(self, there_are: int) -> list[int]:
        """Which rows are used: the first of a shuffling that their number does not change, back in their order."""
        wanted = self._num_train_examples
        if wanted is None or wanted > there_are:
            raise DataError(
                f"`task.num_train_examples` must be at most the {there_are} examples that {self.name} has to train on, "
                f"but is {wanted}; lower it, or let it be null for all."
            )
        order = list(range(there_are))
        random.Random(f"{self._subset_seed} subset").shuffle(order)
        return sorted(order[:wanted])
