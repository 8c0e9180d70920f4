"""WebNLG challenge 2017 (Gardent et al.): generate a text from facts of DBpedia.

In: the challenge's release, the JSON of the paper's code, or JSON lines, read by `webnlg_files.py`; or a copy on the
hub. Out: one example per entry. Its group is `seen` if its category is one of the ten in the training split, else
`unseen`.

As in the code of Li & Liang (2021): the modified triples, each as ` | subject : property : object`, with names as they
are (`Aarhus_Airport`), and the bos token between source and target. Training and validation use only texts with the
comment `good`; entries without one are left out. Unlike their code, no further space is put before the source or the
closing eos.

The test split keeps all texts of an entry in the order of the release, as their code and the challenge's evaluation do;
the challenge's BLEU then uses the first three. Scores are computed for the seen categories, the unseen ones, and all.

Metrics: BLEU (multi-bleu), METEOR, TER and chrF++.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.data.released_task import ReleasedTask
from ptl_prefix.data.task import Split
from ptl_prefix.data.text_lines import OnRead
from ptl_prefix.data.triples import linearise
from ptl_prefix.data.webnlg_files import parse_entry, read_entries, xml_files
from ptl_prefix.settings import settings_from, with_settings_of

SEEN_CATEGORIES = frozenset(
    "Airport Astronaut Building City ComicsCharacter Food Monument SportsTeam University WrittenWork".split()
)
"""The categories of the training split; the test split has five others."""


class WebNLG(ReleasedTask):
    """Generation of a text from triples.

    Args:
        test_categories: Categories of the test split: those `seen` in training, the `unseen` ones, or `all`.
        shared: Settings of `ReleasedTask`.
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
        """One example per entry; entries that the test files repeat are read once."""
        sources = set()
        for example in super().all_examples(split):
            # The release has the whole test split, the same without texts, and its unseen part once more. No two test
            # entries have the same triples; some training entries do, with different categories and other texts.
            if split != "test" or example.source not in sources:
                sources.add(example.source)
                yield example

    def example(self, row: FileRow, split: Split) -> Example | None:
        """The example of an entry, if it has texts and is of the configured categories."""
        entry = parse_entry(row)
        group = "seen" if entry.category in SEEN_CATEGORIES else "unseen"
        texts = [text for text, comment in entry.texts if split == "test" or comment == "good"]
        if not texts or (split == "test" and self._test_categories not in ("all", group)):
            return None
        return Example(f" | {linearise(entry.triples)}", tuple(texts), group=group)

    def content(self, split: Split) -> object:
        """Hashes of the files; for the test split, also its categories."""
        return super().content(split), self._test_categories if split == "test" else None

    def files(self, split: Split) -> list[Path]:
        """One file of the split, or all XML files below the folder whose path names the split."""
        return super().files(split) or ([] if self.folder is None else xml_files(self.folder, split))

    def read(self, path: Path, on_read: OnRead) -> Iterator[FileRow]:
        """The entries of one file."""
        return read_entries(path, on_read)
