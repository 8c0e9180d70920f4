"""The base class of tasks with data of the user: files of the splits, one file that is divided, or the hub.

In: JSON, JSON lines, CSV, TSV, Parquet or parallel text, or folders that `save_to_disk` of `datasets` wrote, one per
split or one that is divided into splits; or a data set on the hub. Out: `FileRow`s of a split, and the rest of a task
but the examples that rows become.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Lt

from ptl_prefix.data.corpus_task import CorpusTask
from ptl_prefix.data.dataset_rows import split_folders
from ptl_prefix.data.file_rows import FileRow, fingerprint_file, format_suffix, read_rows, why_unreadable
from ptl_prefix.data.hash_split import Division
from ptl_prefix.data.hub import read_hub_rows
from ptl_prefix.data.task import SPLITS, Split
from ptl_prefix.data.text_lines import TextFormat, is_encoding
from ptl_prefix.errors import DataError
from ptl_prefix.settings import with_settings_of

_DATA_FILE_FRACTION = 0.1
"""Fraction of `data_file` for validation where none is given. Configs of earlier versions hold it beside other files,
too, where it has no effect."""


class FileTask(CorpusTask):
    """A task with data of the user.

    Exactly one origin must be given: files for the splits, `data_file`, or `hub`.

    Args:
        train_file: File of the training split.
        validation_file: File of the validation split.
        test_file: File of the test split.
        data_file: One file for all splits, divided by a hash of each source; or a folder of a `DatasetDict`, whose
            splits are used.
        validation_fraction: Fraction of the distinct sources of `data_file`, or of `train_file` without a
            `validation_file`, for validation, on average; `None`: 0.1 of `data_file`, nothing of `train_file`.
        test_fraction: Fraction of `data_file`'s distinct sources for the test split, on average.
        split_seed: Seed of the division into splits.
        hub: Name of a data set on the hub.
        hub_config: Configuration of the data set on the hub.
        hub_revision: Revision of the data set on the hub.
        encoding: Encoding of the files; `None`: that of the byte order mark, else UTF-8.
        separator: Character between the cells of CSV and TSV files; `None`: found out from the first line.
        metrics: Names of metrics.
        shared: Settings of `CorpusTask`.
    """

    licence = ""

    @with_settings_of(CorpusTask.__init__)
    def __init__(
        self,
        *,
        train_file: str | None,
        validation_file: str | None,
        test_file: str | None,
        data_file: str | None,
        validation_fraction: Annotated[float, Ge(0), Lt(1)] | None,
        test_fraction: Annotated[float, Ge(0), Lt(1)],
        split_seed: Annotated[int, Ge(0)],
        hub: str | None,
        hub_config: str | None,
        hub_revision: str | None,
        encoding: str | None,
        separator: str | None,
        metrics: Sequence[str],
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.metrics = tuple(metrics)
        given: dict[Split, str | None] = {"train": train_file, "validation": validation_file, "test": test_file}
        self._given_files = {split: Path(file).expanduser() for split, file in given.items() if file is not None}
        self._data_file = None if data_file is None else Path(data_file).expanduser()
        self.hub, self._hub_config, self._hub_revision = hub, hub_config, hub_revision
        self._files = self._files_by_split()
        self._validation_fraction = validation_fraction
        self.division = self._division_of(validation_fraction, test_fraction, split_seed)
        if validation_fraction is not None and "validation" in self._files:
            self.add_note("`task.validation_fraction` has no effect where the validation split has a file of its own")
        tab = {"\\t": "\t", "tab": "\t"}.get(separator or "", separator)
        self.text_format = TextFormat(encoding=encoding, separator=tab, has_settings=True)

    def _files_by_split(self) -> dict[Split, Path]:
        """The file of each split that has its own; the folder of a `DatasetDict` gives those that are not named."""
        first = self._data_file or self._given_files.get("train")
        folders = _folders_of(first) if first is not None else {}
        named = {split: _folders_of(file).get(split, file) for split, file in self._given_files.items()}
        return {**({} if self._data_file is None else {"train": self._data_file}), **folders, **named}

    def _division_of(self, validation: float | None, test: float, seed: int) -> Division:
        """The division of the training file, in which splits with files of their own have no share."""
        default = 0.0 if self._data_file is None else _DATA_FILE_FRACTION
        return Division(
            validation=0.0 if "validation" in self._files else default if validation is None else validation,
            test=0.0 if "test" in self._files or self._data_file is None else test,
            seed=seed,
        )

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits with data; for a data set on the hub, all, as only the hub knows."""
        if not self._files:
            return SPLITS
        return tuple(split for split in SPLITS if split in self._files or self.is_divided(split))

    def problems(self) -> list[str]:
        """Problems: not exactly one origin, missing files, fractions that leave no training split, or columns."""
        origins = {"files for the splits": self._given_files, "data_file": self._data_file, "hub": self.hub}
        given = [origin for origin, value in origins.items() if value]
        problems = []
        if len(given) != 1:
            problems.append(
                f"{self.name} must have exactly one of {', '.join(origins)}, but has {' and '.join(given) or 'none'}; "
                "give `task.train_file` and `task.validation_file`, or `task.data_file`, or `task.hub`."
            )
        problems += self._fraction_problems()
        # A split that is not named comes from `data_file`, or from the `DatasetDict` that `train_file` is.
        other = "train_file" if self._data_file is None else "data_file"
        files = [
            (f"{split}_file" if split in self._given_files else other, file) for split, file in self._files.items()
        ]
        if self._given_files and self._data_file is not None:
            files.append(("data_file", self._data_file))
        mistakes = ((key, why_unreadable(file)) for key, file in files)
        problems += [f"`task.{key}`: {mistake}" for key, mistake in mistakes if mistake is not None]
        return problems + self._format_problems({format_suffix(file) for _, file in files}) + self.column_problems()

    def _fraction_problems(self) -> list[str]:
        """Problems of `validation_fraction` and `test_fraction`."""
        if self.division.validation + self.division.test >= 1:
            return ["`task.validation_fraction` + `task.test_fraction` must be < 1; lower one of them."]
        fraction = self._validation_fraction
        if fraction in (None, _DATA_FILE_FRACTION):
            return []
        if "validation" in self._files and self._given_files.get("train", self._data_file) is not None:
            return [
                "`task.validation_fraction` must be null where the validation split has a file of its own, "
                f"{self._files['validation']}, but is {fraction}; remove one of the two."
            ]
        if self.hub is not None:
            return [f"`task.validation_fraction` must be null with `task.hub`, but is {fraction}; remove it."]
        return []

    def column_problems(self) -> list[str]:
        """Problems of the settings that say what is read of a row."""
        return []

    def _format_problems(self, suffixes: Set[str]) -> list[str]:
        """Problems of `encoding` and `separator`, given the suffixes of the files."""
        encoding, separator = self.text_format.encoding, self.text_format.separator
        problems = []
        if encoding is not None and not is_encoding(encoding):
            problems.append(
                f"`task.encoding` must be a text encoding, such as utf-8, utf-16 or latin-1, but is '{encoding}'."
            )
        if separator is not None and (len(separator) != 1 or separator in '"\r\n\0'):
            problems.append(
                f"`task.separator` must be one character, such as ; or \\t for a tab, but is {separator!r}."
            )
        if separator is not None and not suffixes & {".csv", ".tsv"}:
            problems.append("`task.separator` must be null unless a file is .csv or .tsv; remove it.")
        return problems

    @abstractmethod
    def content_settings(self) -> tuple[object, ...]:
        """The settings that decide which examples a row becomes."""

    def content(self, split: Split) -> object:
        """The settings and the file's hash; for a data set on the hub, the examples themselves."""
        settings = self.content_settings()
        if self.hub is not None:
            return settings, list(self.all_examples(split))
        file = fingerprint_file(self.file_of(split))
        return (settings, file, self.division) if self.is_divided(split) else (settings, file)

    def is_divided(self, split: Split) -> bool:
        """Whether a split is a part of the training file."""
        shares = {"validation": self.division.validation, "test": self.division.test}
        if "train" not in self._files:
            return False
        return any(shares.values()) if split == "train" else split not in self._files and shares[split] > 0

    def rows(self, split: Split) -> Iterator[FileRow]:
        """The rows of the split's file, in its order; of a divided file, those of all its splits."""
        if self.hub is not None:
            return read_hub_rows(self.hub, config=self._hub_config, revision=self._hub_revision, split=split)
        file = self.file_of(split)
        return read_rows(file, self.text_format, self.begin_reading(file))

    def file_of(self, split: Split) -> Path:
        """The file of a split."""
        if split in self._files or self.is_divided(split):
            return self._files[split if split in self._files else "train"]
        raise DataError(
            f"{self.name} must have a {split} split, but has none; set `task.{split}_file` or `task.data_file`."
        )


def _folders_of(path: Path) -> dict[Split, Path]:
    """The folders of the splits of a `DatasetDict`; empty for anything else, and for one that is damaged."""
    try:
        folders = split_folders(path)
    except DataError:
        return {}
    return {split: folders[split] for split in SPLITS if split in folders}
