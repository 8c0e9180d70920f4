"""XSum (Narayan et al., EMNLP 2018): summarise a BBC article in one sentence.

In: parallel text, `{train,val,test}.source` and `.target` with one article per line, as summarisation code uses it; or
rows with `document` and `summary`; or a copy on the hub. Out: one example per article. Articles without text are left
out.

Metrics: ROUGE-1, ROUGE-2 and ROUGE-L with stemming.
"""

from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.data.released_task import ReleasedTask
from ptl_prefix.data.task import Split
from ptl_prefix.settings import settings_from


class XSum(ReleasedTask):
    """Summarisation of an article. Its settings are those of `ReleasedTask`."""

    version = "1"
    licence = "MIT for the release; the articles are the BBC's"
    metrics = ("rouge1", "rouge2", "rougeL")
    released_files = ("train.source", "val.source", "test.source")

    __init__ = settings_from("task/xsum")(ReleasedTask.__init__)

    def example(self, row: FileRow, split: Split) -> Example | None:
        """The example of one article."""
        columns = ("source", "target") if "source" in row.cells else ("document", "summary")
        if row.cells.get(columns[0]) == "":
            return None
        return Example(row.text(columns[0]), (row.text(columns[1]),))
