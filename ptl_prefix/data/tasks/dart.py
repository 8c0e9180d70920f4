"""DART (Nan et al., NAACL 2021): facts from tables to a sentence.

In: the released `dart-v1.1.1-full-{train,dev,test}.json`, or records with the same keys, `tripleset` and
`annotations[].text`; by hub name too. Out: one example per record, its texts the references.

As in the code of Li & Liang (2021): properties in lower case, triples as `subject : property : object` with ` | `
between them, the bos between source and target. Their code puts a space before the source and one before the closing
eos, ours none. Texts that are empty are no references here; a record without any other is left out. Records with the
same triples stay apart, as the official test counts each of them.

Measured as WebNLG is: BLEU (multi-bleu), METEOR and TER over up to three references, and chrF++.
"""

from typing import Any

from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.data.released_task import ReleasedTask
from ptl_prefix.data.task import Split
from ptl_prefix.data.triples import linearised, triples_of
from ptl_prefix.errors import DataError
from ptl_prefix.settings import settings_from


class DART(ReleasedTask):
    """Triples to a sentence, with one or many references. Settings as in `ReleasedTask`."""

    version = "1"
    licence = "MIT"
    metrics = ("multi_bleu", "meteor_webnlg", "ter_webnlg", "chrf_pp")
    released_files = ("dart-v1.1.1-full-train.json", "dart-v1.1.1-full-dev.json", "dart-v1.1.1-full-test.json")

    __init__ = settings_from("task/dart")(ReleasedTask.__init__)

    def example(self, record: FileRow, split: Split) -> Example | None:
        """One set of triples with its texts."""
        triples = triples_of(record.cells.get("tripleset"), record.place)
        lowered = [(subject, relation.lower(), object_) for subject, relation, object_ in triples]
        texts = [text.strip() for text in _texts(record) if text.strip()]
        return Example(linearised(lowered), tuple(texts)) if texts else None


def _texts(record: FileRow) -> list[str]:
    """The annotations' texts: a list of objects in the released files, an object of lists in their Parquet copy."""
    cell: Any = record.cells.get("annotations")
    texts = cell.get("text") if isinstance(cell, dict) else None
    if isinstance(cell, list):
        texts = [annotation.get("text") if isinstance(annotation, dict) else None for annotation in cell]
    if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
        return texts
    raise DataError(
        f"{record.place}: 'annotations' must be a list of objects with a 'text', but is {cell!r:.80}; mend it."
    )
