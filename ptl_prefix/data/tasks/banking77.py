"""banking77 (Casanueva et al., 2020): a bank's customer's message to one of 77 intents.

In: the released `train.csv` and `test.csv`, columns `text,category`, and `categories.json`, which lists the labels; by
hub name too. Out: one example per message. Classification is generation: the target is the label as it is written in
the release (`card_arrival`), and the closed set of labels is known as `label_set`.

There is no validation split in the release: a hash of the message takes a share of `train.csv` for it, the same one
for the same `split_seed`. Six messages of the test are in `train.csv` too; they stay, as in published results.

Measured by accuracy and macro-F1.
"""

import json
from collections.abc import Iterable
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt

from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.data.hash_split import Division
from ptl_prefix.data.released_task import ReleasedTask
from ptl_prefix.data.task import Split
from ptl_prefix.errors import DataError
from ptl_prefix.settings import settings_from, with_settings_of


class Banking77(ReleasedTask):
    """A message to its intent.

    Args:
        validation_fraction: Share of the training messages for validation, on average.
        split_seed: Seed that decides which training messages are for validation.
        shared: As in `ReleasedTask`.
    """

    version = "1"
    licence = "CC BY 4.0"
    metrics = ("accuracy", "macro_f1")
    released_files = ("train.csv", "train.csv", "test.csv")
    hub_splits = ("train", "train", "test")

    @settings_from("task/banking77")
    @with_settings_of(ReleasedTask.__init__)
    def __init__(
        self, *, validation_fraction: Annotated[float, Gt(0), Lt(1)], split_seed: Annotated[int, Ge(0)], **shared: Any
    ) -> None:
        super().__init__(**shared)
        self._division = Division(validation=validation_fraction, test=0.0, seed=split_seed)

    @property
    def label_set(self) -> tuple[str, ...]:
        """The labels in the order of `categories.json`; where there is none, those of the training data, sorted."""
        path = None if self.folder is None else self.folder / "categories.json"
        if path is None or not path.is_file():
            return tuple(sorted({_label(record) for record in self.records("train")}))
        try:
            labels = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} must be a JSON array of labels, but {error}; mend it.") from error
        if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
            raise DataError(f"{path} must be a JSON array of labels, but is {labels!r:.60}; mend it.")
        return tuple(labels)

    def all_examples(self, split: Split) -> Iterable[Example]:
        """One per message, checked against the labels."""
        labels = set(self.label_set)
        for example in super().all_examples(split):
            if example.targets[0] not in labels:
                raise DataError(
                    f"The labels of {self.name} must be those of categories.json, but '{example.targets[0]}' is not "
                    f"(of '{example.source:.60}'); mend one of the two."
                )
            yield example

    def example(self, record: FileRow, split: Split) -> Example | None:
        """One message, if it is of this split: the training file is divided."""
        text = record.text("text")
        is_of_split = split == "test" or self._division.split_of(text) == split
        return Example(text, (_label(record),)) if is_of_split else None

    def content(self, split: Split) -> object:
        """The file, its labels, and how it is divided."""
        return super().content(split), self.label_set, self._division


def _label(record: FileRow) -> str:
    return record.text("category" if "category" in record.cells else "label")
