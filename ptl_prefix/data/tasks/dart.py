"""DART (Nan et al., NAACL 2021): generate a sentence from facts of a table.

In: the released `dart-v1.1.1-full-{train,dev,test}.json`, or rows with the same keys, `tripleset` and
`annotations[].text`; or a copy on the hub. Out: one example per row; its texts are the references.

As in the code of Li & Liang (2021): properties are in lower case, triples are `subject : property : object` with ` | `
between them, and the bos token separates source and target. Unlike their code, no space is put before the source or the
closing eos. Empty texts are not references, and a row without other texts is left out. Rows with the same triples stay
separate examples, as the official test set counts each of them.

Metrics, as in DART's own scripts: BLEU (multi-bleu) over up to three references, METEOR and TER over the first; and
chrF++.
"""

from typing import Any

from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.data.released_task import ReleasedTask
from ptl_prefix.data.task import Split
from ptl_prefix.data.triples import linearise, parse_triples
from ptl_prefix.errors import DataError
from ptl_prefix.settings import settings_from


class DART(ReleasedTask):
    """Generation of a sentence from triples. Its settings are those of `ReleasedTask`."""

    version = "1"
    licence = "MIT"
    metrics = ("multi_bleu_dart", "meteor_dart", "ter_dart", "chrf_pp")
    released_files = ("dart-v1.1.1-full-train.json", "dart-v1.1.1-full-dev.json", "dart-v1.1.1-full-test.json")

    __init__ = settings_from("task/dart")(ReleasedTask.__init__)

    def example(self, row: FileRow, split: Split) -> Example | None:
        """The example of one set of triples."""
        triples = parse_triples(row.cells.get("tripleset"), row.place)
        lowered = [(subject, relation.lower(), object_) for subject, relation, object_ in triples]
        texts = [text.strip() for text in _texts(row) if text.strip()]
        return Example(linearise(lowered), tuple(texts)) if texts else None


def _texts(row: FileRow) -> list[str]:
    """The texts of a row: from a list of objects in the released files, from an object of lists in the Parquet copy."""
    cell: Any = row.cells.get("annotations")
    texts = cell.get("text") if isinstance(cell, dict) else None
    if isinstance(cell, list):
        texts = [annotation.get("text") if isinstance(annotation, dict) else None for annotation in cell]
    if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
        return texts
    raise DataError(
        f"{row.place}: 'annotations' must be a list of objects with a 'text', but is {cell!r:.80}; correct it."
    )
