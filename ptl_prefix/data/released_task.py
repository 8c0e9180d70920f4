"""The base class of tasks with published data sets.

In: a folder with the released files, or the name of a copy on the hub. Out: a task. Its own file adds the names of the
released files, and the example that a row becomes.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from ptl_prefix.data.corpus_task import CorpusTask
from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import SUFFIXES, FileRow, fingerprint_file, read_rows
from ptl_prefix.data.hub import read_hub_rows
from ptl_prefix.data.task import SPLITS, Split
from ptl_prefix.data.text_lines import OnRead
from ptl_prefix.errors import DataError
from ptl_prefix.settings import with_settings_of

_STEMS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "dev", "val"),
    "test": ("test",),
}
"""File names of a split besides its released name; each may have any suffix that can be read."""


class ReleasedTask(CorpusTask):
    """A published data set, from the files of one folder or from the hub.

    A split is read from the file with its released name, or else from `train`, `validation` (`dev`, `val`) or `test`
    with any suffix that can be read; if there are several, from the first. A missing file is an error when its split
    is used.

    Args:
        data_dir: Folder with the released files; `None` means the hub.
        hub: Name of a copy on the hub, used if `data_dir` is `None`.
        hub_config: Configuration of the copy on the hub.
        hub_revision: Revision of the copy on the hub.
        shared: Settings of `CorpusTask`.
    """

    released_files: ClassVar[tuple[str, str, str]]
    """Released file name of each of `SPLITS`."""
    other_files: ClassVar[str] = ""
    """Other files that a split can be read from, as the end of a message "has no ..."."""
    hub_splits: ClassVar[tuple[str, str, str]] = SPLITS
    """Name of each of `SPLITS` on the hub."""

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
    def example(self, row: FileRow, split: Split) -> Example | None:
        """The example of a row; `None` if the row is not part of the split.

        Raises:
            DataError: The row is malformed.
        """

    def all_examples(self, split: Split) -> Iterable[Example]:
        """One example per row, in the order of the files."""
        for row in self.rows(split):
            if (example := self.example(row, split)) is not None:
                yield example

    def content(self, split: Split) -> object:
        """Hashes of the files; for a copy on the hub, the examples themselves."""
        if self.folder is None:
            return list(self.all_examples(split))
        return [fingerprint_file(path) for path in self._needed_files(split)]

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits with a file; for a copy on the hub, all, as only the hub knows."""
        return tuple(split for split in SPLITS if self.folder is None or self.files(split))

    def problems(self) -> list[str]:
        """Problems: neither a folder nor a hub name, or no files for training and validation in the folder."""
        if self.folder is None:
            must = f"{self.name} must have `task.data_dir` or `task.hub`, but both are null"
            return [] if self._hub is not None else [f"{must}; give the folder of the released files."]
        if not self.folder.is_dir():
            return [f"`task.data_dir` must be a folder, but {self.folder} is not one; correct the path."]
        needed: tuple[Split, ...] = ("train", "validation")
        return [self._missing(split) for split in needed if not self.files(split)]

    def rows(self, split: Split) -> Iterator[FileRow]:
        """The rows of a split.

        Raises:
            DataError: The split is missing, or a file is malformed.
        """
        if self.folder is not None:
            files = self._needed_files(split)
            on_read = self.begin_reading(*files)
            for path in files:
                yield from self.read(path, on_read)
        elif self._hub is not None:
            hub_split = self.hub_splits[SPLITS.index(split)]
            yield from read_hub_rows(self._hub, config=self._hub_config, revision=self._hub_revision, split=hub_split)
        else:
            raise DataError(" ".join(self.problems()))

    def read(self, path: Path, on_read: OnRead) -> Iterator[FileRow]:
        """The rows of one file."""
        return read_rows(path, on_read=on_read)

    def files(self, split: Split) -> list[Path]:
        """The files of a split in the folder, in reading order; empty if the split is missing."""
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
