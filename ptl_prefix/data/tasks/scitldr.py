"""SciTLDR (Cachola et al., Findings of EMNLP 2020): a paper's abstract to one sentence.

In: the released `{train,dev,test}.jsonl` of SciTLDR-A, `source` and `target` lists of texts; by hub name too. Out: one
example per paper, the sentences of its abstract joined with spaces; every target is a reference, as the release has
several for validation and test.

Measured by ROUGE-1, ROUGE-2 and ROUGE-L, the best over the references.
"""

from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.data.released_task import ReleasedTask
from ptl_prefix.data.task import Split
from ptl_prefix.settings import settings_from


class SciTLDR(ReleasedTask):
    """An abstract to a sentence. Settings as in `ReleasedTask`."""

    version = "1"
    licence = "Apache-2.0"
    metrics = ("rouge1", "rouge2", "rougeL")
    released_files = ("train.jsonl", "dev.jsonl", "test.jsonl")

    __init__ = settings_from("task/scitldr")(ReleasedTask.__init__)

    def example(self, record: FileRow, split: Split) -> Example:
        """One paper."""
        return Example(record.text("source"), tuple(record.texts("target")))
