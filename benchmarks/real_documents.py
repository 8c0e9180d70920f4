"""The three documents that `benchmarks/documents` has questions about.

In: the optional data folder with Wikipedia's text, and this project's own pages. Out: the texts, checked by their hash;
or files of them: `python -m benchmarks.real_documents OUT`.
"""

import argparse
import hashlib
import json
import lzma
import os
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("documents")
_CHECKOUT = Path(__file__).parents[1]


class DocumentNotFoundError(Exception):
    """The text of a document is not on this machine, or is another version of it."""


@dataclass(frozen=True, kw_only=True)
class RealDocument:
    """One document with questions.

    Args:
        name: Name of the document.
        questions: Its file of questions.
        title: Title of an article; empty for a page of this project.
        corpus: File of the data folder with the article.
        sha256: Hash of the article's text.
        path: File of this project; empty for an article.
    """

    name: str
    questions: Path
    title: str = ""
    corpus: str = ""
    sha256: str = ""
    path: str = ""

    def text(self) -> str:
        """The text of the document.

        Raises:
            DocumentNotFoundError: It is not on this machine.
        """
        if self.path:
            return (_CHECKOUT / self.path).read_text(encoding="utf-8")
        folder = os.environ.get("PTL_PREFIX_DATA")
        if not folder or not Path(folder, self.corpus).is_file():
            raise DocumentNotFoundError(
                f"The article '{self.title}' is read from {self.corpus} in the folder that PTL_PREFIX_DATA names, "
                f"but {'there is none' if folder else 'the variable is not set'}."
            )
        with lzma.open(Path(folder, self.corpus), "rt", encoding="utf-8") as lines:
            # Most lines are not even parsed.
            found = (json.loads(line) for line in lines if json.dumps(self.title)[1:-1] in line)
            text = next((str(one["text"]) for one in found if one.get("title") == self.title), "")
        if hashlib.sha256(text.encode()).hexdigest() != self.sha256:
            raise DocumentNotFoundError(
                f"The article '{self.title}' must be the version that the questions are about, but {self.corpus} has "
                f"{'another one' if text else 'none of this title'}."
            )
        return text

    def write(self, folder: Path) -> Path:
        """Write the text to `<name>.txt` in a folder, as `text` finds it."""
        text = self.text()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.txt"
        path.write_text(text, encoding="utf-8")
        return path


def real_documents() -> list[RealDocument]:
    """The documents of `documents.json`."""
    values = json.loads((FOLDER / "documents.json").read_text(encoding="utf-8"))
    return [RealDocument(**{**one, "questions": FOLDER / one["questions"]}) for one in values]


def main() -> None:
    """Write the texts that are found."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    for document in real_documents():
        try:
            print(f"{document.write(out)}: questions in {document.questions}")
        except DocumentNotFoundError as error:
            print(f"{document.name} is skipped: {error}")


if __name__ == "__main__":
    main()
