"""SciTLDR (Cachola et al., Findings of EMNLP 2020): summarise a paper's abstract in one sentence.

In: the released `{train,dev,test}.jsonl` of SciTLDR-A, where `source` and `target` are lists of texts; or a copy on the
hub. Out: one example per paper. The sentences of the abstract are joined with spaces, and every target is a reference:
the release has several for validation and test.

Metrics: ROUGE-1, ROUGE-2 and ROUGE-L, each with the best of the references.
"""

from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.data.released_task import ReleasedTask
from ptl_prefix.data.task import Split
from ptl_prefix.settings import settings_from


class SciTLDR(ReleasedTask):
    """Summarisation of an abstract. Its settings are those of `ReleasedTask`."""

    version = "1"
    licence = "Apache-2.0"
    metrics = ("rouge1", "rouge2", "rougeL")
    released_files = ("train.jsonl", "dev.jsonl", "test.jsonl")

    __init__ = settings_from("task/scitldr")(ReleasedTask.__init__)

    def example(self, row: FileRow, split: Split) -> Example:
        """The example of one paper."""
        return Example(row.text("source"), tuple(row.texts("target")))
