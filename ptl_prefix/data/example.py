"""One input and what may be written for it.

In: what a task reads or makes up. Out: `Example`, and its form as rows of a `datasets.Dataset`, the only thing that
leaves a task.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import datasets

FEATURES = datasets.Features(
    {
        "source": datasets.Value("string"),
        "targets": datasets.List(datasets.Value("string")),
        "example_id": datasets.Value("string"),
        "values": datasets.List(datasets.Value("string")),
    }
)
"""The columns of every task's data set."""


@dataclass(frozen=True)
class Example:
    """One input of a task.

    Args:
        source: What the backbone reads, as the task renders it.
        targets: What it should write: every reference there is, at least one. Training uses each of them.
        example_id: Names the example inside its task and split, the same in every run.
        values: What a faithful output mentions word for word; empty where a task does not say.
    """

    source: str
    targets: tuple[str, ...]
    example_id: str
    values: tuple[str, ...] = ()


def as_dataset(examples: Iterable[Example]) -> datasets.Dataset:
    """The examples as rows, in their order."""
    columns: dict[str, list[object]] = {name: [] for name in FEATURES}
    for example in examples:
        columns["source"].append(example.source)
        columns["targets"].append(list(example.targets))
        columns["example_id"].append(example.example_id)
        columns["values"].append(list(example.values))
    return datasets.Dataset.from_dict(columns, features=FEATURES)
