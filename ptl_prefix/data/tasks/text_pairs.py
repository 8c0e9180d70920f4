"""The user's own data: pairs of a source and one or more targets.

In: JSON, JSON lines, CSV, TSV, Parquet or parallel text, or folders that `save_to_disk` of `datasets` wrote, one per
split or one that is divided into splits; or a data set on the hub. Out: one example per row, in the order of the file;
a row may hold several targets, or a label of a closed set.
"""

from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Lt, MinLen

from ptl_prefix.data.corpus_task import CorpusTask
from ptl_prefix.data.dataset_rows import split_folders
from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import FileRow, Setting, fingerprint_file, format_suffix, read_rows, why_unreadable
from ptl_prefix.data.hash_split import Division
from ptl_prefix.data.hub import read_hub_rows
from ptl_prefix.artifacts.source_template import SourceTemplate
from ptl_prefix.data.task import SPLITS, Split
from ptl_prefix.data.text_lines import TextFormat, is_encoding
from ptl_prefix.errors import DataError
from ptl_prefix.settings import settings_from, with_settings_of

_DATA_FILE_FRACTION = 0.1
"""Fraction of `data_file` for validation where none is given. Configs of earlier versions hold it beside other files,
too, where it has no effect."""


class TextPairs(CorpusTask):
    """Source-target pairs of the user.

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
        source_column: Column with the source; a list of texts is joined with spaces.
        prompt_template: Text of the source with `{name}` for each column, such as `{title}: {body}`; `None`: the source
            is the text of `source_column`.
        target_columns: Columns with targets; each text of a list is one target.
        label_column: Column with a label, in place of `target_columns`; the labels of the training split are the closed
            set that classification chooses from. `None`: targets are free text.
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
        validation_fraction: Annotated[float, Ge(0), Lt(1)] | None,
        test_fraction: Annotated[float, Ge(0), Lt(1)],
        split_seed: Annotated[int, Ge(0)],
        hub: str | None,
        hub_config: str | None,
        hub_revision: str | None,
        source_column: str | int,
        prompt_template: str | None,
        target_columns: Annotated[Sequence[str | int], MinLen(1)],
        label_column: str | int | None,
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
        self._hub, self._hub_config, self._hub_revision = hub, hub_config, hub_revision
        self._files = self._files_by_split()
        self._validation_fraction = validation_fraction
        self._division = self._division_of(validation_fraction, test_fraction, split_seed)
        if validation_fraction is not None and "validation" in self._files:
            self.add_note("`task.validation_fraction` has no effect where the validation split has a file of its own")
        # On the command line, a column that is called 0 is a number.
        self._source_column, self._target_columns = str(source_column), tuple(map(str, target_columns))
        self._label_column = None if label_column is None else str(label_column)
        self._labels: tuple[str, ...] | None = None
        self._prompt_template = prompt_template
        tab = {"\\t": "\t", "tab": "\t"}.get(separator or "", separator)
        self._format = TextFormat(encoding=encoding, separator=tab, has_settings=True)

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
        return tuple(split for split in SPLITS if split in self._files or self._is_divided(split))

    @property
    def label_set(self) -> tuple[str, ...] | None:
        """The sorted labels of the training split; `None` without `label_column`."""
        if self._label_column is not None and self._labels is None:
            self._labels = tuple(sorted({example.targets[0] for example in self._examples("train")}))
        return self._labels

    def problems(self) -> list[str]:
        """Problems: not exactly one origin, missing files, fractions that leave no training split, or columns."""
        origins = {"files for the splits": self._given_files, "data_file": self._data_file, "hub": self._hub}
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
        return problems + self._format_problems({format_suffix(file) for _, file in files}) + self._column_problems()

    def _fraction_problems(self) -> list[str]:
        """Problems of `validation_fraction` and `test_fraction`."""
        if self._division.validation + self._division.test >= 1:
            return ["`task.validation_fraction` + `task.test_fraction` must be < 1; lower one of them."]
        fraction = self._validation_fraction
        if fraction in (None, _DATA_FILE_FRACTION):
            return []
        if "validation" in self._files and self._given_files.get("train", self._data_file) is not None:
            return [
                "`task.validation_fraction` must be null where the validation split has a file of its own, "
                f"{self._files['validation']}, but is {fraction}; remove one of the two."
            ]
        if self._hub is not None:
            return [f"`task.validation_fraction` must be null with `task.hub`, but is {fraction}; remove it."]
        return []

    def _column_problems(self) -> list[str]:
        """Problems of the settings that name columns."""
        problems = []
        if self._label_column is not None and self._target_columns != ("target",):
            problems.append(
                f"`task.target_columns` must be left out beside `task.label_column`, but is "
                f"[{', '.join(self._target_columns)}]; remove one of the two."
            )
        if self._prompt_template is None:
            return problems
        try:
            columns = SourceTemplate(self._prompt_template).columns
        except ValueError as error:
            return [*problems, f"`task.prompt_template` {error}"]
        if self._source_column != "source" and columns != ("source",):
            problems.append(
                "`task.prompt_template` must name no column but {source} beside `task.source_column`, but names "
                f"{', '.join(columns)}; remove one of the two."
            )
        return problems

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
        """One example per row, in the order of the file; a label must be one of the training split."""
        # The labels first: they are read from the training split, and progress is that of one reading.
        labels = None if self.label_set is None else frozenset(self.label_set)
        for example in self._examples(split):
            if labels is not None and example.targets[0] not in labels:
                raise DataError(
                    f"Each label of the {split} split of {self.name} must occur in the training split, but "
                    f"'{example.targets[0]}' (of '{example.source:.60}') does not; correct the row, or remove it."
                )
            yield example

    def _examples(self, split: Split) -> Iterator[Example]:
        """The examples of a split, whose labels are not checked."""
        template = None if self._prompt_template is None else SourceTemplate(self._prompt_template)
        is_divided, num_rows, num_of_split = self._is_divided(split), 0, 0
        for row in self._rows(split):
            num_rows += 1
            texts = self._source_texts(row, template)
            # Not the rendered source: another template must not move a row to another split.
            if is_divided and self._division.split_of("\n".join(texts.values())) != split:
                continue
            num_of_split += 1
            source = " ".join(texts.values()) if template is None else template.render(texts.__getitem__)
            yield Example(source, self._targets(row))
            for column in (*map(self._column_of, texts), *self._columns_of_targets):
                if row.converted(column):
                    self.add_note(f"numbers and booleans in the column '{column}' are read as their text")
        if is_divided and split != "train":
            self.add_note(f"{num_of_split} of {num_rows} pairs are the {split} split, chosen by a hash of their source")

    def _source_texts(self, row: FileRow, template: SourceTemplate | None) -> dict[str, str]:
        """The texts of a source by the names of the template; without one, of the source's column."""
        setting: Setting = "source_column" if template is None or self._source_column != "source" else "prompt_template"
        names = ("source",) if template is None else template.columns
        return {name: row.text(self._column_of(name), setting) for name in names}

    def _column_of(self, name: str) -> str:
        """The column that a name of the template stands for: `{source}` is the one of `source_column`."""
        return self._source_column if name == "source" else name

    @property
    def _columns_of_targets(self) -> tuple[str, ...]:
        return self._target_columns if self._label_column is None else (self._label_column,)

    def _targets(self, row: FileRow) -> tuple[str, ...]:
        if self._label_column is not None:
            return (row.text(self._label_column, "label_column"),)
        return tuple(text for column in self._target_columns for text in row.texts(column, "target_columns"))

    def content(self, split: Split) -> object:
        """The settings and the file's hash; for a data set on the hub, the examples themselves."""
        settings: tuple[object, ...] = (self._source_column, self._target_columns)
        if (self._format.encoding, self._format.separator) != (None, None):
            settings += (self._format.encoding, self._format.separator)
        if self._prompt_template is not None:
            settings += ("prompt_template", self._prompt_template)
        if self._label_column is not None:
            # Also of the other splits: they may hold no label that is not among these.
            settings += ("label_column", self._label_column, self.label_set)
        if self._hub is not None:
            return settings, list(self.all_examples(split))
        file = fingerprint_file(self._file_of(split))
        return (settings, file, self._division) if self._is_divided(split) else (settings, file)

    def _is_divided(self, split: Split) -> bool:
        """Whether a split is a part of the training file."""
        shares = {"validation": self._division.validation, "test": self._division.test}
        if "train" not in self._files:
            return False
        return any(shares.values()) if split == "train" else split not in self._files and shares[split] > 0

    def _rows(self, split: Split) -> Iterator[FileRow]:
        if self._hub is not None:
            return read_hub_rows(self._hub, config=self._hub_config, revision=self._hub_revision, split=split)
        file = self._file_of(split)
        return read_rows(file, self._format, self.begin_reading(file))

    def _file_of(self, split: Split) -> Path:
        if split in self._files or self._is_divided(split):
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
