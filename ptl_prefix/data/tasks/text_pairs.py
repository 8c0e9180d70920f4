"""The user's own data: pairs of a source and one or more targets.

In: JSON, JSON lines, CSV, TSV, Parquet or parallel text, or folders that `save_to_disk` of `datasets` wrote, one per
split or one that is divided into splits; or a data set on the hub. Out: one example per row, in the order of the file;
a row may hold several targets, or a label of a closed set.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any

from annotated_types import MinLen

from ptl_prefix.artifacts.source_template import SourceTemplate
from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import FileRow, Setting
from ptl_prefix.data.file_task import FileTask
from ptl_prefix.data.task import Split
from ptl_prefix.errors import DataError
from ptl_prefix.settings import settings_from, with_settings_of


class TextPairs(FileTask):
    """Source-target pairs of the user.

    Args:
        source_column: Column with the source; a list of texts is joined with spaces.
        prompt_template: Text of the source with `{name}` for each column, such as `{title}: {body}`; `None`: the source
            is the text of `source_column`.
        target_columns: Columns with targets; each text of a list is one target.
        label_column: Column with a label, in place of `target_columns`; the labels of the training split are the closed
            set that classification chooses from. `None`: targets are free text.
        shared: Settings of `FileTask`.
    """

    version = "1"

    @settings_from("task/text_pairs")
    @with_settings_of(FileTask.__init__)
    def __init__(
        self,
        *,
        source_column: str | int,
        prompt_template: str | None,
        target_columns: Annotated[Sequence[str | int], MinLen(1)],
        label_column: str | int | None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        # On the command line, a column that is called 0 is a number.
        self._source_column, self._target_columns = str(source_column), tuple(map(str, target_columns))
        self._label_column = None if label_column is None else str(label_column)
        self._labels: tuple[str, ...] | None = None
        self._prompt_template = prompt_template
        self.prompt = replace(self.prompt, source_template=prompt_template)

    @property
    def label_set(self) -> tuple[str, ...] | None:
        """The sorted labels of the training split; `None` without `label_column`."""
        if self._label_column is not None and self._labels is None:
            self._labels = tuple(sorted({example.targets[0] for example in self._examples("train")}))
        return self._labels

    def column_problems(self) -> list[str]:
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
        is_divided, num_rows, num_of_split = self.is_divided(split), 0, 0
        for row in self.rows(split):
            num_rows += 1
            texts = self._source_texts(row, template)
            # Not the rendered source: another template must not move a row to another split.
            if is_divided and self.division.split_of("\n".join(texts.values())) != split:
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

    def content_settings(self) -> tuple[object, ...]:
        """The settings that choose columns; with labels, also their set."""
        settings: tuple[object, ...] = (self._source_column, self._target_columns)
        if (self.text_format.encoding, self.text_format.separator) != (None, None):
            settings += (self.text_format.encoding, self.text_format.separator)
        if self._prompt_template is not None:
            settings += ("prompt_template", self._prompt_template)
        if self._label_column is not None:
            # Also of the other splits: they may hold no label that is not among these.
            settings += ("label_column", self._label_column, self.label_set)
        return settings
