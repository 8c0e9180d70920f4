"""The built-in task: describe a small table of attributes in one or two sentences.

In: a seed. Out: generated examples, the same on every machine; they need no files and no network. A source looks like
`name : The Golden Mill | kind : museum | city : Paris | near : lake`; a target states all of it. All correct sentences
are references, so an output is either one of them or wrong. Values are everyday words that are copied in a fixed order,
so a small backbone learns the task in a minute.
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
"""First sentences, each without and with `near`."""
_CLOSINGS = {
    (): "",
    ("built",): " It was built in {built}.",
    ("owner",): " It belongs to {owner}.",
    ("built", "owner"): " It was built in {built} and belongs to {owner}.",
}
"""The second sentence, by the optional attributes that the table has."""


class TableToText(CorpusTask):
    """Generation of sentences from a table of attributes.

    A training example has one target, drawn from the correct sentences; a validation or test example has all of them as
    references. No table occurs twice, in one split or in two.

    Args:
        num_train: Number of training examples.
        num_validation: Number of validation examples.
        num_test: Number of test examples.
        data_seed: Seed of the tables and of the training targets.
        shared: Settings of `CorpusTask`.
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
        """A problem if more examples are wanted than can be generated."""
        wanted, limit = sum(self._sizes.values()), _num_tables() // 2
        if wanted > limit:
            # A table that was drawn before is drawn again, which becomes slow when few new ones are left.
            return [
                f"{self.name} can generate at most {limit} examples, but {wanted} are wanted; lower `task.num_train`."
            ]
        return []

    def content(self, split: Split) -> object:
        """Everything that decides the tables and their sentences."""
        return split, self._sizes, self._seed, _VALUES, _OPENINGS, _CLOSINGS

    def all_examples(self, split: Split) -> Iterator[Example]:
        """One example per table; all tables differ."""
        # Validation and test tables are drawn first, so that `num_train` does not change them.
        first = {"validation": 0, "test": self._sizes["validation"], "train": 0}[split]
        if split == "train":
            first = self._sizes["validation"] + self._sizes["test"]
        tables = itertools.islice(_distinct_tables(self._seed), first, first + self._sizes[split])
        chooser = random.Random(f"{self._seed} targets")
        for table in tables:
            sentences = render_sentences(table)
            targets = (chooser.choice(sentences),) if split == "train" else sentences
            yield Example(render_source(table), targets, values=tuple(table.values()))


def render_source(table: Table) -> str:
    """The source text of a table, on one line."""
    return " | ".join(f"{attribute} : {value}" for attribute, value in table.items())


def render_sentences(table: Table) -> tuple[str, ...]:
    """All correct texts for a table."""
    closing = _CLOSINGS[tuple(attribute for attribute in ("built", "owner") if attribute in table)]
    return tuple((opening["near" in table] + closing).format(**table) for opening in _OPENINGS)


def _distinct_tables(seed: int) -> Iterator[Table]:
    """An endless sequence of tables that all differ."""
    generator = random.Random(f"{seed} tables")
    seen = set()
    while True:
        table = _random_table(generator)
        if (source := render_source(table)) not in seen:
            seen.add(source)
            yield table


def _random_table(generator: random.Random) -> Table:
    """A random table; it has each optional attribute with probability 1/2."""
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
