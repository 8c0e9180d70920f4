"""The built-in task: small tables of attributes, and the sentences that say what they say.

In: a seed. Out: examples that need no file and no network, the same on every machine. A source reads
`name : The Golden Mill | kind : museum | city : Paris | near : lake`; a target says all of it in one sentence or two.
There are few ways to say it, all of them references, so that what is written is either one of them or wrong, and a
small backbone can learn the task in a minute: values are everyday words, copied as they stand, in a fixed order.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Annotated, Any

from annotated_types import Ge

from ptl_prefix.data.corpus_task import CorpusTask
from ptl_prefix.data.example import Example
from ptl_prefix.data.task import Split
from ptl_prefix.settings import settings_from, with_settings_of

Table = dict[str, str]

_FIRST = (
    "Old New Grand Little Red Blue Green White Black Golden Silver Royal Copper Crystal Happy Hidden Lucky Noble "
    "Quiet Rusty Scarlet Sleepy Velvet Wandering"
).split()
_SECOND = (
    "Star King Queen Moon Sun Bridge Tower Castle Park Garden House Mill Anchor Badger Compass Eagle Falcon Harbour "
    "Lantern Lion Orchard Rose Swan Willow"
).split()
_GIVEN = "Mary Anna Jane Alice Laura John Peter James Thomas Robert".split()
_FAMILY = "Baker Carter Fisher Green Hall Mason Potter Smith Taylor Wood".split()
_VALUES = {
    "name": tuple(f"The {first} {second}" for first, second in itertools.product(_FIRST, _SECOND)),
    "kind": tuple(
        "pub museum library theatre school market church club bar hotel gallery cinema bakery restaurant".split()
    ),
    "city": tuple(
        "London Paris Rome Berlin Vienna Oxford Boston Chicago Tokyo Moscow Sydney Prague Madrid Dublin Bristol "
        "Glasgow Lisbon Warsaw Toronto Cairo Athens Delhi Budapest Helsinki".split()
    ),
    "near": tuple("river lake sea forest mountain island valley square harbour hill beach cathedral".split()),
    "built": tuple(str(year) for year in range(1800, 2000)),
    "owner": tuple(f"{given} {family}" for given, family in itertools.product(_GIVEN, _FAMILY)),
}
_OPTIONAL = ("near", "built", "owner")
_OPENINGS = (
    ("In {city} there is a {kind} called {name}.", "In {city}, near the {near}, there is a {kind} called {name}."),
    ("There is a {kind} called {name} in {city}.", "There is a {kind} called {name} near the {near} in {city}."),
)
"""The ways to begin, without and with `near`."""
_CLOSINGS = {
    (): "",
    ("built",): " It was built in {built}.",
    ("owner",): " It belongs to {owner}.",
    ("built", "owner"): " It was built in {built} and belongs to {owner}.",
}
"""The way to go on, by the other optional attributes that a table has."""


class TableToText(CorpusTask):
    """Attribute tables to sentences.

    A training example has one target, drawn from the ways to say its table; one for validation or test has all of them
    as references. No two splits share a table, and no split has one twice.

    Args:
        num_train: Examples to train on.
        num_validation: Examples for validation.
        num_test: Examples for the test.
        data_seed: Decides which tables there are, and the training targets.
        shared: As in `CorpusTask`.
    """

    version = "1"
    licence = "Apache-2.0"
    metrics = ("exact_match", "attribute_accuracy")

    @settings_from("task/table_to_text")
    @with_settings_of(CorpusTask.__init__)
    def __init__(
        self,
        *,
        num_train: Annotated[int, Ge(1)],
        num_validation: Annotated[int, Ge(1)],
        num_test: Annotated[int, Ge(1)],
        data_seed: Annotated[int, Ge(0)],
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self._sizes: dict[Split, int] = {"train": num_train, "validation": num_validation, "test": num_test}
        self._seed = data_seed

    def problems(self) -> list[str]:
        """More examples are wanted than there are tables."""
        wanted, there_are = sum(self._sizes.values()), _num_tables()
        if wanted > there_are // 2:
            # Tables are drawn until they differ, which grows slow as they run out.
            return [f"{self.name} can make {there_are // 2} examples, but {wanted} are wanted; lower `task.num_train`."]
        return []

    def content(self, split: Split) -> object:
        """All that decides the tables and what is said of them; there are no files."""
        return split, self._sizes, self._seed, _VALUES, _OPENINGS, _CLOSINGS

    def all_examples(self, split: Split) -> Iterator[Example]:
        """As many different tables as the split has examples."""
        # Validation and test come first, so that they stay the same when there is more to train on.
        first = {"validation": 0, "test": self._sizes["validation"], "train": 0}[split]
        if split == "train":
            first = self._sizes["validation"] + self._sizes["test"]
        tables = itertools.islice(_distinct_tables(self._seed), first, first + self._sizes[split])
        chooser = random.Random(f"{self._seed} targets")
        for table in tables:
            sentences = sentences_of(table)
            targets = (chooser.choice(sentences),) if split == "train" else sentences
            yield Example(source_of(table), targets, values=tuple(table.values()))


def source_of(table: Table) -> str:
    """A table in one line."""
    return " | ".join(f"{attribute} : {value}" for attribute, value in table.items())


def sentences_of(table: Table) -> tuple[str, ...]:
    """Every acceptable way to say a table."""
    closing = _CLOSINGS[tuple(attribute for attribute in ("built", "owner") if attribute in table)]
    return tuple((opening["near" in table] + closing).format(**table) for opening in _OPENINGS)


def _distinct_tables(seed: int) -> Iterator[Table]:
    """Tables without end, none of them twice."""
    generator = random.Random(f"{seed} tables")
    seen = set()
    while True:
        table = _random_table(generator)
        if (source := source_of(table)) not in seen:
            seen.add(source)
            yield table


def _random_table(generator: random.Random) -> Table:
    """Each optional attribute is there half of the time."""
    return {
        attribute: generator.choice(values)
        for attribute, values in _VALUES.items()
        if attribute not in _OPTIONAL or generator.random() < 0.5
    }


def _num_tables() -> int:
    number = 1
    for attribute, values in _VALUES.items():
        number *= len(values) + (attribute in _OPTIONAL)
    return number
