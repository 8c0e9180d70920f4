"""WebNLG challenge 2017 (Gardent et al.): facts from DBpedia to a text.

In: the challenge's release, the JSON of the paper's code, or JSON lines, read in `webnlg_files.py`; by hub name too.
Out: one example per entry, in the group `seen` if its category is one of the ten to train on, and `unseen` if not.

As in the code of Li & Liang (2021): the modified triples, as ` | subject : property : object` each, names as they are
(`Aarhus_Airport`), the bos between source and target; to train on and to validate with, only texts whose comment is
`good`, entries without one left out. Their code puts another space before the source and one before the closing eos,
ours none.

The test keeps every text of an entry, good or not, in the order of the release, as their code and the challenge's own
evaluation do; the latter's BLEU then takes the first three. It counts the seen categories, the unseen ones and all.

Measured by BLEU (multi-bleu), METEOR, TER and chrF++, on seen, unseen and all.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.data.released_task import ReleasedTask
from ptl_prefix.data.task import Split
from ptl_prefix.data.triples import linearised
from ptl_prefix.data.webnlg_files import entry_of, read_entries, xml_files
from ptl_prefix.settings import settings_from, with_settings_of

SEEN_CATEGORIES = frozenset(
    "Airport Astronaut Building City ComicsCharacter Food Monument SportsTeam University WrittenWork".split()
)
"""The categories to train on; the test has five others."""


class WebNLG(ReleasedTask):
    """Triples to a text, with one or many references.

    Args:
        test_categories: Which categories the test has: `seen` in training, `unseen`, or all.
        shared: As in `ReleasedTask`.
    """

    version = "1"
    licence = "CC BY-NC-SA 4.0"
    metrics = ("multi_bleu", "meteor_webnlg", "ter_webnlg", "chrf_pp")
    released_files = ("train.json", "dev.json", "test.json")
    other_files = "XML file below it with the split in its path"
    hub_splits = ("train", "dev", "test")

    @settings_from("task/webnlg")
    @with_settings_of(ReleasedTask.__init__)
    def __init__(self, *, test_categories: Literal["all", "seen", "unseen"], **shared: Any) -> None:
        super().__init__(**shared)
        self._test_categories = test_categories

    def all_examples(self, split: Split) -> Iterable[Example]:
        """One per entry; one that the files of the test repeat is read once."""
        read = set()
        for example in super().all_examples(split):
            # The release's test comes whole, again without its texts, and its unseen part once more. No two of its
            # entries have the same triples; to train on, some do, of different categories and with other texts.
            if split != "test" or example.source not in read:
                read.add(example.source)
                yield example

    def example(self, record: FileRow, split: Split) -> Example | None:
        """One entry, if it has texts and is of the categories asked for."""
        entry = entry_of(record)
        group = "seen" if entry.category in SEEN_CATEGORIES else "unseen"
        texts = [text for text, comment in entry.texts if split == "test" or comment == "good"]
        if not texts or (split == "test" and self._test_categories not in ("all", group)):
            return None
        return Example(f" | {linearised(entry.triples)}", tuple(texts), group=group)

    def content(self, split: Split) -> object:
        """The files' content; of the test also which categories."""
        return super().content(split), self._test_categories if split == "test" else None

    def files(self, split: Split) -> list[Path]:
        """One file of the split, or all XML files below the folder whose path names it."""
        return super().files(split) or ([] if self.folder is None else xml_files(self.folder, split))

    def read(self, path: Path) -> Iterator[FileRow]:
        """The entries of one file."""
        return read_entries(path)
