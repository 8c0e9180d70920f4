"""DialogSum (Chen et al., Findings of ACL 2021): a dialogue to its summary.

In: the released `dialogsum.{train,dev,test}.jsonl`, `dialogue` with one turn a line and `summary`, or in the test
`summary1` to `summary3`; by hub name too, where the test has a record for each summary. Out: one example per dialogue
with all its summaries, the lines of the dialogue as they are.

Measured by ROUGE-1, ROUGE-2 and ROUGE-L.
"""

import re
from collections.abc import Iterable

from ptl_prefix.data.example import Example, merged
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.data.released_task import ReleasedTask
from ptl_prefix.data.task import Split
from ptl_prefix.settings import settings_from


class DialogSum(ReleasedTask):
    """A dialogue to a summary. Settings as in `ReleasedTask`."""

    version = "1"
    licence = "CC BY-NC-SA 4.0"
    metrics = ("rouge1", "rouge2", "rougeL")
    released_files = ("dialogsum.train.jsonl", "dialogsum.dev.jsonl", "dialogsum.test.jsonl")

    __init__ = settings_from("task/dialogsum")(ReleasedTask.__init__)

    def all_examples(self, split: Split) -> Iterable[Example]:
        """One example per distinct dialogue."""
        return merged(super().all_examples(split))

    def example(self, record: FileRow, split: Split) -> Example:
        """One dialogue with the summaries that stand beside it."""
        columns = [column for column in record.cells if re.fullmatch(r"summary\d*", column)] or ["summary"]
        return Example(record.text("dialogue"), tuple(record.text(column) for column in columns))
