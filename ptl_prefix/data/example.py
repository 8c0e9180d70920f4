"""One example of a task: a source and its targets.

In: the texts that a task reads or generates. Out: `Example`s, and the `datasets.Dataset` of them that a task returns.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    import datasets

_CHUNK_EXAMPLES = 1000


@dataclass(frozen=True)
class Example:
    """One input of a task with its references.

    Args:
        source: Input text, as the task renders it.
        targets: Reference outputs, at least one; training uses each of them.
        example_id: Id of the example in its task and split, the same in every run; empty until it is numbered.
        values: Strings that a faithful output contains word for word; empty where the task states none.
        group: Part of the split that is also scored by itself, such as `seen`; empty where there are no parts.
    """

    source: str
    targets: tuple[str, ...]
    example_id: str = ""
    values: tuple[str, ...] = ()
    group: str = ""


def merge_by_source(examples: Iterable[Example]) -> Iterator[Example]:
    """Merge examples of the same source into the first of them, which gets the targets of all."""
    targets: dict[str, list[str]] = {}
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(example.source, example)
        targets.setdefault(example.source, []).extend(example.targets)
    for source, example in first.items():
        yield replace(example, targets=tuple(targets[source]))


def to_row(example: Example) -> dict[str, Any]:
    """An example with the columns of `example_features`."""
    return {
        "source": example.source,
        "targets": list(example.targets),
        "example_id": example.example_id,
        "values": list(example.values),
        "group": example.group,
    }


def example_features() -> "datasets.Features":
    """The columns of the examples of every task."""
    import datasets

    text = datasets.Value("string")
    texts = datasets.List(text)
    return datasets.Features(source=text, targets=texts, example_id=text, values=texts, group=text)


def to_dataset(examples: Iterable[Example]) -> "datasets.Dataset":
    """Examples as a data set, in their order. They are turned into Arrow's compact form a few at a time."""
    # Imported here: with pandas it takes two seconds, and a training reads its examples one at a time.
    import datasets

    schema = example_features().arrow_schema
    remaining = iter(examples)
    batches = []
    while chunk := [to_row(example) for example in itertools.islice(remaining, _CHUNK_EXAMPLES)]:
        batches.append(pa.RecordBatch.from_pylist(chunk, schema=schema))
    return datasets.Dataset(pa.Table.from_batches(batches, schema=schema))
