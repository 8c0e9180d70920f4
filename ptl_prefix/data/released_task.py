"""Data sets as they were released: what the tasks of published data share.

In: a folder with the released files, or the name of a copy on the hub. Out: a task; what is left to its own file is
what the files are called, and what one record becomes.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from ptl_prefix.data.corpus_task import CorpusTask
from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import SUFFIXES, FileRow, fingerprint_file, read_rows
from ptl_prefix.data.hub import read_hub_records
from ptl_prefix.data.task import SPLITS, Split
from ptl_prefix.errors import DataError
from ptl_prefix.settings import with_settings_of

_STEMS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "dev", "val"),
    "test": ("test",),
}
"""What a split's file may be called besides its released name, with any suffix that can be read."""


class ReleasedTask(CorpusTask):
    """A published data set, from the files of one folder or from the hub.

    A split is read from the file with its released name, or else from `train`, `validation` (`dev`, `val`) or `test`
    with any suffix that can be read; of several, from the first. One that is not there is missed when it is used.

    Args:
        data_dir: Folder with the released files; `None` loads the data set from the hub.
        hub: Name of a copy on the hub, used when `data_dir` is `None`.
        hub_config: Configuration of the hub data set; `None` is its default.
        hub_revision: Revision of the hub data set; `refs/convert/parquet` where the data set is a script.
        shared: As in `CorpusTask`.
    """

    released_files: ClassVar[tuple[str, str, str]]
    """What the file of each of `SPLITS` is called where it was released."""
    other_files: ClassVar[str] = ""
    """What else a split may be read from, as the end of "has no ..."."""
    hub_splits: ClassVar[tuple[str, str, str]] = SPLITS
    """What each of `SPLITS` is called on the hub."""

    @with_settings_of(CorpusTask.__init__)
    def __init__(
        self,
        *,
        data_dir: str | None,
        hub: str | None,
        hub_config: str | None,
        hub_revision: str | None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.folder = None if data_dir is None else Path(data_dir).expanduser()
        self._hub, self._hub_config, self._hub_revision = hub, hub_config, hub_revision

    @abstractmethod
    def example(self, record: FileRow, split: Split) -> Example | None:
        """What a record becomes; `None` if it is not one of the task's. Raises `DataError` if it is malformed."""

    def all_examples(self, split: Split) -> Iterable[Example]:
        """One per record, in the order of the files."""
        for record in self.records(split):
            if (example := self.example(record, split)) is not None:
                yield example

    def content(self, split: Split) -> object:
        """The files' content; the examples themselves where they come from the hub."""
        if self.folder is None:
            return list(self.all_examples(split))
        return [fingerprint_file(path) for path in self._needed_files(split)]

    @property
    def splits(self) -> tuple[Split, ...]:
        """Those with a file; of a copy on the hub all, as it alone could tell."""
        return tuple(split for split in SPLITS if self.folder is None or self.files(split))

    def problems(self) -> list[str]:
        """No place to take data from, or no files there to train on and validate with."""
        if self.folder is None:
            must = f"{self.name} must have `task.data_dir` or `task.hub`, but both are null"
            return [] if self._hub is not None else [f"{must}; give the folder of the released files."]
        if not self.folder.is_dir():
            return [f"`task.data_dir` must be a folder, but there is none at {self.folder}; correct the path."]
        needed: tuple[Split, ...] = ("train", "validation")
        return [self._missing(split) for split in needed if not self.files(split)]

    def records(self, split: Split) -> Iterator[FileRow]:
        """The records of a split.

        Raises:
            DataError: There is no such split, or a file is malformed.
        """
        if self.folder is not None:
            for path in self._needed_files(split):
                yield from self.read(path)
        elif self._hub is not None:
            hub_split = self.hub_splits[SPLITS.index(split)]
            yield from read_hub_records(
                self._hub, config=self._hub_config, revision=self._hub_revision, split=hub_split
            )
        else:
            raise DataError(" ".join(self.problems()))

    def read(self, path: Path) -> Iterator[FileRow]:
        """The records of one file."""
        return read_rows(path)

    def files(self, split: Split) -> list[Path]:
        """The files of a split in the folder, in the order in which they are read; none if it is not there."""
        assert self.folder is not None, "Only a folder has files."
        names = [f"{stem}{suffix}" for stem in _STEMS[split] for suffix in SUFFIXES]
        paths = (self.folder / name for name in (self._released_file(split), *names))
        return [path for path in paths if path.is_file()][:1]

    def _needed_files(self, split: Split) -> list[Path]:
        if files := self.files(split):
            return files
        raise DataError(self._missing(split))

    def _missing(self, split: Split) -> str:
        others = [f"{' or '.join(_STEMS[split])} with one of {', '.join(SUFFIXES)}", self.other_files]
        return (
            f"`task.data_dir` must hold the {split} split of {self.name} to use it, but {self.folder} has no "
            f"{self._released_file(split)}, and no {', and no '.join(filter(None, others))}; put it there."
        )

    def _released_file(self, split: Split) -> str:
        return self.released_files[SPLITS.index(split)]
