"""XSum (Narayan et al., EMNLP 2018): a BBC article to one sentence.

In: parallel text, `{train,val,test}.source` and `.target` with one article a line, as summarisation code has it; or
records with `document` and `summary`; by hub name too. Out: one example per article. One whose document is empty is
left out, as there is nothing to summarise.

Measured by ROUGE-1, ROUGE-2 and ROUGE-L with stemming.
"""

from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.data.released_task import ReleasedTask
from ptl_prefix.data.task import Split
from ptl_prefix.settings import settings_from


class XSum(ReleasedTask):
    """An article to a sentence. Settings as in `ReleasedTask`."""

    version = "1"
    licence = "MIT for the release; the articles are the BBC's"
    metrics = ("rouge1", "rouge2", "rougeL")
    released_files = ("train.source", "val.source", "test.source")

    __init__ = settings_from("task/xsum")(ReleasedTask.__init__)

    def example(self, record: FileRow, split: Split) -> Example | None:
        """One article."""
        columns = ("source", "target") if "source" in record.cells else ("document", "summary")
        if record.cells.get(columns[0]) == "":
            return None
        return Example(record.text(columns[0]), (record.text(columns[1]),))
