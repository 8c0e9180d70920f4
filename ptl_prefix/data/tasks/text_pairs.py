"""The user's own data: pairs of a source and one or more targets.

In: JSON, JSON lines, CSV, TSV, Parquet or parallel text, one file per split or one file that is divided into splits; or
a data set on the hub. Out: one example per row, in the order of the file; a row may hold several targets.
"""

from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Lt, MinLen

from ptl_prefix.data.corpus_task import CorpusTask
from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import FileRow, fingerprint_file, read_rows, why_unreadable
from ptl_prefix.data.hash_split import Division
from ptl_prefix.data.hub import read_hub_rows
from ptl_prefix.data.task import SPLITS, Split
from ptl_prefix.data.text_lines import TextFormat, is_encoding
from ptl_prefix.errors import DataError
from ptl_prefix.settings import settings_from, with_settings_of


class TextPairs(CorpusTask):
    """Source-target pairs of the user.

    Exactly one origin must be given: files for the splits, `data_file`, or `hub`.

    Args:
        train_file: File of the training split.
        validation_file: File of the validation split.
        test_file: File of the test split.
        data_file: One file for all splits, divided by a hash of each source.
        validation_fraction: Fraction of `data_file`'s distinct sources for validation, on average.
        test_fraction: Fraction of `data_file`'s distinct sources for the test split, on average.
        split_seed: Seed of the division of `data_file`.
        hub: Name of a data set on the hub.
        hub_config: Configuration of the data set on the hub.
        hub_revision: Revision of the data set on the hub.
        source_column: Column with the source; a list of texts is joined with spaces.
        target_columns: Columns with targets; each text of a list is one target.
        encoding: Encoding of the files; `None`: that of the byte order mark, else UTF-8.
        separator: Character between the cells of CSV and TSV files; `None`: found out from the first line.
        metrics: Names of metrics.
        shared: Settings of `CorpusTask`.
    """

    version = "1"
    licence = ""

    @settings_from("task/text_pairs")
    @with_settings_of(CorpusTask.__init__)
    def __init__(
        self,
        *,
        train_file: str | None,
        validation_file: str | None,
        test_file: str | None,
        data_file: str | None,
        validation_fraction: Annotated[float, Ge(0), Lt(1)],
        test_fraction: Annotated[float, Ge(0), Lt(1)],
        split_seed: Annotated[int, Ge(0)],
        hub: str | None,
        hub_config: str | None,
        hub_revision: str | None,
        source_column: str | int,
        target_columns: Annotated[Sequence[str | int], MinLen(1)],
        encoding: str | None,
        separator: str | None,
        metrics: Sequence[str],
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.metrics = tuple(metrics)
        given: dict[Split, str | None] = {"train": train_file, "validation": validation_file, "test": test_file}
        self._files = {split: Path(file).expanduser() for split, file in given.items() if file is not None}
        self._data_file = None if data_file is None else Path(data_file).expanduser()
        self._division = Division(validation=validation_fraction, test=test_fraction, seed=split_seed)
        self._hub, self._hub_config, self._hub_revision = hub, hub_config, hub_revision
        # On the command line, a column that is called 0 is a number.
        self._source_column, self._target_columns = str(source_column), tuple(map(str, target_columns))
        tab = {"\\t": "\t", "tab": "\t"}.get(separator or "", separator)
        self._format = TextFormat(encoding=encoding, separator=tab, has_settings=True)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits with data; for a data set on the hub, all, as only the hub knows."""
        if self._files:
            return tuple(split for split in SPLITS if split in self._files)
        if self._data_file is not None:
            shares = {"validation": self._division.validation, "test": self._division.test}
            return tuple(split for split in SPLITS if shares.get(split, 1.0) > 0)
        return SPLITS

    def problems(self) -> list[str]:
        """Problems: not exactly one origin, missing files, or fractions that leave no training split."""
        origins = {"files for the splits": self._files, "data_file": self._data_file, "hub": self._hub}
        given = [origin for origin, value in origins.items() if value]
        problems = []
        if len(given) != 1:
            problems.append(
                f"{self.name} must have exactly one of {', '.join(origins)}, but has {' and '.join(given) or 'none'}; "
                "give `task.train_file` and `task.validation_file`, or `task.data_file`, or `task.hub`."
            )
        files = {f"{split}_file": file for split, file in self._files.items()}
        if self._data_file is not None:
            files["data_file"] = self._data_file
            if self._division.validation + self._division.test >= 1:
                problems.append("`task.validation_fraction` + `task.test_fraction` must be < 1; lower one of them.")
        mistakes = ((key, why_unreadable(file)) for key, file in files.items())
        problems += [f"`task.{key}`: {mistake}" for key, mistake in mistakes if mistake is not None]
        return problems + self._format_problems({file.suffix.lower() for file in files.values()})

    def _format_problems(self, suffixes: Set[str]) -> list[str]:
        """Problems of `encoding` and `separator`, given the suffixes of the files."""
        encoding, separator = self._format.encoding, self._format.separator
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

    def all_examples(self, split: Split) -> Iterator[Example]:
        """One example per row, in the order of the file."""
        for row in self._rows(split):
            source = row.text(self._source_column, "source_column")
            if self._data_file is not None and self._division.split_of(source) != split:
                continue
            columns = self._target_columns
            yield Example(source, tuple(text for column in columns for text in row.texts(column, "target_columns")))
            for column in (self._source_column, *columns):
                if row.converted(column):
                    self.add_note(f"numbers and booleans in the column '{column}' are read as their text")

    def content(self, split: Split) -> object:
        """The settings and the file's hash; for a data set on the hub, the examples themselves."""
        settings: tuple[object, ...] = (self._source_column, self._target_columns)
        if (self._format.encoding, self._format.separator) != (None, None):
            settings += (self._format.encoding, self._format.separator)
        if self._data_file is not None:
            return settings, fingerprint_file(self._data_file), self._division
        if self._hub is not None:
            return settings, list(self.all_examples(split))
        return settings, fingerprint_file(self._file_of(split))

    def _rows(self, split: Split) -> Iterator[FileRow]:
        if self._data_file is not None:
            return read_rows(self._data_file, self._format, self.begin_reading(self._data_file))
        if self._hub is not None:
            return read_hub_rows(self._hub, config=self._hub_config, revision=self._hub_revision, split=split)
        file = self._file_of(split)
        return read_rows(file, self._format, self.begin_reading(file))

    def _file_of(self, split: Split) -> Path:
        if split not in self._files:
            raise DataError(
                f"{self.name} must have a {split} split, but has none; set `task.{split}_file` or `task.data_file`."
            )
        return self._files[split]
