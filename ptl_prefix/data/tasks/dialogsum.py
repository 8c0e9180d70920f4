"""DialogSum (Chen et al., Findings of ACL 2021): summarise a dialogue.

In: the released `dialogsum.{train,dev,test}.jsonl`, with `dialogue`, one turn per line, and `summary`, or `summary1` to
`summary3` in the test split; or a copy on the hub, whose test split has a row for each summary. Out: one example per
dialogue with all its summaries; the lines of the dialogue are unchanged.

Metrics: ROUGE-1, ROUGE-2 and ROUGE-L.
"""

import re
from collections.abc import Iterable

from ptl_prefix.data.example import Example, merge_by_source
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.data.released_task import ReleasedTask
from ptl_prefix.data.task import Split
from ptl_prefix.settings import settings_from


class DialogSum(ReleasedTask):
    """Summarisation of a dialogue. Its settings are those of `ReleasedTask`."""

    version = "1"
    licence = "CC BY-NC-SA 4.0"
    metrics = ("rouge1", "rouge2", "rougeL")
    released_files = ("dialogsum.train.jsonl", "dialogsum.dev.jsonl", "dialogsum.test.jsonl")

    __init__ = settings_from("task/dialogsum")(ReleasedTask.__init__)

    def all_examples(self, split: Split) -> Iterable[Example]:
        """One example per distinct dialogue."""
        return merge_by_source(super().all_examples(split))

    def example(self, row: FileRow, split: Split) -> Example:
        """The example of one row: a dialogue and its summaries."""
        columns = [column for column in row.cells if re.fullmatch(r"summary\d*", column)] or ["summary"]
        return Example(row.text("dialogue"), tuple(row.text(column) for column in columns))
