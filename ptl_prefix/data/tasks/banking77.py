"""banking77 (Casanueva et al., 2020): classify a bank customer's message as one of 77 intents.

In: the released `train.csv` and `test.csv`, columns `text,category`, and `categories.json`, which lists the labels; or
a copy on the hub. Out: one example per message. The target is the label as the release spells it (`card_arrival`), and
`label_set` is the closed set of labels: classification chooses the most likely of them.

The release has no validation split: a hash of each message assigns a fraction of `train.csv` to it, the same one for
the same `split_seed`. Six messages of the test split are in `train.csv` too; they stay, as in published results.

Metrics: accuracy and macro-F1.
"""

from collections.abc import Iterable
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt

from ptl_prefix.artifacts.json_document import DocumentError, parse_json
from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.data.hash_split import Division
from ptl_prefix.data.released_task import ReleasedTask
from ptl_prefix.data.task import Split
from ptl_prefix.errors import DataError
from ptl_prefix.settings import settings_from, with_settings_of


class Banking77(ReleasedTask):
    """Classification of a message's intent.

    Args:
        validation_fraction: Fraction of the training messages that is used for validation, on average.
        split_seed: Seed of the choice of validation messages.
        shared: Settings of `ReleasedTask`.
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
        """The labels in the order of `categories.json`; without that file, the sorted labels of the training data."""
        path = None if self.folder is None else self.folder / "categories.json"
        if path is None or not path.is_file():
            return tuple(sorted({_label(row) for row in self.rows("train")}))
        try:
            labels = parse_json(path.read_bytes())
        except DocumentError as error:
            raise DataError(f"{path} must be a JSON array of labels, but {error}; correct it.") from error
        if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
            raise DataError(f"{path} must be a JSON array of labels, but is {labels!r:.60}; correct it.")
        return tuple(labels)

    def all_examples(self, split: Split) -> Iterable[Example]:
        """One example per message; each label must be one of `label_set`."""
        labels = set(self.label_set)
        for example in super().all_examples(split):
            if example.targets[0] not in labels:
                raise DataError(
                    f"The labels of {self.name} must be in categories.json, but '{example.targets[0]}' is not "
                    f"(of '{example.source:.60}'); correct one of the two."
                )
            yield example

    def example(self, row: FileRow, split: Split) -> Example | None:
        """The example of a message, if it belongs to the split: the training file holds two splits."""
        text = row.text("text")
        is_of_split = split == "test" or self._division.split_of(text) == split
        return Example(text, (_label(row),)) if is_of_split else None

    def content(self, split: Split) -> object:
        """The file's hash, the labels, and the division into splits."""
        return super().content(split), self.label_set, self._division


def _label(row: FileRow) -> str:
    return row.text("category" if "category" in row.cells else "label")
