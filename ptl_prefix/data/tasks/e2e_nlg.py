"""E2E NLG (Novikova et al., 2017): restaurants' attributes to a description.

In: the released `trainset.csv`, `devset.csv` and `testset_w_refs.csv`, columns `mr,ref`, from a folder or by hub name.
Out: one example per distinct input, with every reference that the files give it, linearised as in the code of Li &
Liang (2021): `name[Blue Spice], eatType[pub]` becomes `name : Blue Spice | Type : pub`.

Equal to the authors' files and code: the attributes' new names (`Type`, `price`, `family friendly`), their order, ` : `
and ` | `, the bos between source and target, one prompt per distinct input when testing. Different: their copy of the
texts was tokenised further (`more than £ 30`), ours keeps the released text; their code puts a space before the source
and one before the closing eos, ours none.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import datasets
from annotated_types import Ge

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.data.example import Example, as_dataset
from ptl_prefix.data.hub import read_hub_records
from ptl_prefix.data.record_files import Record, fingerprint_file, read_records, unreadable
from ptl_prefix.data.task import Split, Task, fingerprint_of
from ptl_prefix.errors import DataError
from ptl_prefix.settings import settings_from

_FILES: dict[Split, str] = {"train": "trainset.csv", "validation": "devset.csv", "test": "testset_w_refs.csv"}
_RENAMED = {
    "name": "name",
    "eatType": "Type",
    "food": "food",
    "priceRange": "price",
    "customer rating": "customer rating",
    "area": "area",
    "familyFriendly": "family friendly",
    "near": "near",
}
_ATTRIBUTE = re.compile(r"([^\[\],]+)\[([^\[\]]+)\]")


class E2ENLG(Task):
    """Restaurants' attributes to a description, with one or many references.

    Args:
        name: What the run's folder and record call the task.
        data_dir: Folder with the released files; `None` means the hub.
        hub: Name of a copy on the hub, used when there is no `data_dir`.
        hub_revision: Which revision of it.
        between: Text between a source and its target.
        max_source_tokens: Longest source in tokens; `None` means whatever the backbone has room for.
        truncation: Which end of an over-long source is cut; `none` refuses it.
    """

    version = "1"
    licence = "CC BY-SA 4.0"
    metrics = ("exact_match",)

    @settings_from("task/e2e_nlg")
    def __init__(
        self,
        *,
        name: str,
        data_dir: str | None,
        hub: str | None,
        hub_revision: str | None,
        between: str,
        max_source_tokens: Annotated[int, Ge(1)] | None,
        truncation: Literal["right", "left", "none"],
    ) -> None:
        self.name = name
        self.prompt = PromptFormat(between=between, max_source_tokens=max_source_tokens, truncation=truncation)
        self._folder = None if data_dir is None else Path(data_dir).expanduser()
        self._hub, self._hub_revision = hub, hub_revision

    def problems(self) -> list[str]:
        """Files that are missing, or no place to take them from."""
        if self._folder is not None:
            mistakes = (unreadable(self._folder / file) for file in _FILES.values())
            return [f"`task.data_dir`: {mistake}" for mistake in mistakes if mistake is not None]
        if self._hub is None:
            return [
                f"{self.name} must have `task.data_dir` or `task.hub`, but both are null; give the folder of the CSVs."
            ]
        return []

    def examples(self, split: Split) -> datasets.Dataset:
        """One example per distinct input, in the order in which inputs first appear."""
        references: dict[str, list[str]] = {}
        for source, target in self._pairs(split):
            references.setdefault(source, []).append(target)
        examples = enumerate(references.items())
        return as_dataset(Example(source, tuple(targets), f"{split}-{i}") for i, (source, targets) in examples)

    def fingerprint(self, split: Split) -> str:
        """Of the file's content; of the pairs themselves where they come from the hub."""
        content = list(self._pairs(split)) if self._folder is None else fingerprint_file(self._folder / _FILES[split])
        return fingerprint_of(self.name, self.version, split, content)

    def _pairs(self, split: Split) -> Iterator[tuple[str, str]]:
        for record in self._records(split):
            columns = ("mr", "ref") if self._folder is not None else ("meaning_representation", "human_reference")
            yield linearised(record.text(columns[0]), record.place), record.text(columns[1])

    def _records(self, split: Split) -> Iterator[Record]:
        if self._folder is not None:
            return read_records(self._folder / _FILES[split])
        if self._hub is None:
            raise DataError(" ".join(self.problems()))
        return read_hub_records(self._hub, config=None, revision=self._hub_revision, split=split)


def linearised(meaning: str, place: str) -> str:
    """`name[Blue Spice], eatType[pub]` as `name : Blue Spice | Type : pub`.

    Raises:
        DataError: It is not of that form, or has an attribute that E2E does not.
    """
    parts = []
    for written in meaning.split(", "):
        # Values hold no ", ": where one did, the rest of it would not be an attribute and is refused below.
        match = _ATTRIBUTE.fullmatch(written.strip())
        if match is None or match[1] not in _RENAMED:
            raise DataError(
                f"{place}: an input must be like 'name[Blue Spice], eatType[pub]' with attributes of "
                f"{', '.join(_RENAMED)}, but has '{written}'; mend it."
            )
        parts.append(f"{_RENAMED[match[1]]} : {match[2]}")
    return " | ".join(parts)
