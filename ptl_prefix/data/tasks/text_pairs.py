"""The user's own pairs: a source and what should be written for it.

In: JSON, JSON lines, CSV, TSV, Parquet or parallel text, one file for each split or one that is divided here; or a data
set on the hub. Out: one example per record, in the file's order; a record may hold several acceptable targets.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Lt, MinLen

from ptl_prefix.data.corpus_task import CorpusTask
from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import FileRow, fingerprint_file, read_rows, unreadable
from ptl_prefix.data.hash_split import Division
from ptl_prefix.data.hub import read_hub_records
from ptl_prefix.data.task import SPLITS, Split
from ptl_prefix.errors import DataError
from ptl_prefix.settings import settings_from, with_settings_of


class TextPairs(CorpusTask):
    """Pairs from the user's own files.

    Exactly one origin is given: files for the splits, `data_file`, or `hub`.

    Args:
        train_file: File with the training pairs.
        validation_file: File with the validation pairs.
        test_file: File with the test pairs.
        data_file: One file for all splits, which is divided by the fractions below.
        validation_fraction: Share of `data_file`'s distinct sources for validation, on average.
        test_fraction: Share of `data_file`'s distinct sources for the test, on average.
        split_seed: Seed that decides which sources of `data_file` go to which split.
        hub: Name of a data set on the hub.
        hub_config: Configuration of the hub data set; `None` is its default.
        hub_revision: Revision of the hub data set; `refs/convert/parquet` where the data set is a script.
        source_column: Column with the source; a list of texts in it is joined with spaces.
        target_columns: Columns with acceptable targets; each text of a list in them is one.
        metrics: Names of the metrics, as `ptl-prefix metrics` lists them.
        shared: As in `CorpusTask`.
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
        source_column: str,
        target_columns: Annotated[Sequence[str], MinLen(1)],
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
        self._source_column, self._target_columns = source_column, tuple(target_columns)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that there are; for a data set on the hub, all, as it alone could tell."""
        if self._files:
            return tuple(split for split in SPLITS if split in self._files)
        if self._data_file is not None:
            shares = {"validation": self._division.validation, "test": self._division.test}
            return tuple(split for split in SPLITS if shares.get(split, 1.0) > 0)
        return SPLITS

    def problems(self) -> list[str]:
        """Not exactly one origin, files that are missing, fractions that leave nothing to train on."""
        origins = {"files for the splits": self._files, "data_file": self._data_file, "hub": self._hub}
        given = [origin for origin, value in origins.items() if value]
        problems = []
        if len(given) != 1:
            problems.append(
                f"{self.name} must have one origin of {', '.join(origins)}, but has {' and '.join(given) or 'none'}; "
                "give `task.train_file` and `task.validation_file`, or `task.data_file`, or `task.hub`."
            )
        files = {f"{split}_file": file for split, file in self._files.items()}
        if self._data_file is not None:
            files["data_file"] = self._data_file
            if self._division.validation + self._division.test >= 1:
                problems.append("`task.validation_fraction` and `task.test_fraction` must leave a share to train on.")
        mistakes = ((key, unreadable(file)) for key, file in files.items())
        return problems + [f"`task.{key}`: {mistake}" for key, mistake in mistakes if mistake is not None]

    def all_examples(self, split: Split) -> Iterator[Example]:
        """One per record, in the file's order."""
        for record in self._records(split):
            source = record.text(self._source_column)
            if self._data_file is None or self._division.split_of(source) == split:
                yield Example(source, tuple(text for column in self._target_columns for text in record.texts(column)))

    def content(self, split: Split) -> object:
        """The settings and the file's content; the examples themselves where they come from the hub."""
        settings = (self._source_column, self._target_columns)
        if self._data_file is not None:
            return settings, fingerprint_file(self._data_file), self._division
        if self._hub is not None:
            return settings, list(self.all_examples(split))
        return settings, fingerprint_file(self._file_of(split))

    def _records(self, split: Split) -> Iterator[FileRow]:
        if self._data_file is not None:
            return read_rows(self._data_file)
        if self._hub is not None:
            return read_hub_records(self._hub, config=self._hub_config, revision=self._hub_revision, split=split)
        return read_rows(self._file_of(split))

    def _file_of(self, split: Split) -> Path:
        if split not in self._files:
            raise DataError(
                f"{self.name} has no {split} split, but it is needed; give `task.{split}_file`, or `task.data_file`."
            )
        return self._files[split]
