"""A dataclass kept as one JSON file: written whole or not at all, and read strictly.

In: what kind of document it is, and what to say when something is wrong with it. Out: a writer and a reader.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.json_document import Document, DocumentError, from_values, read_values, to_text, to_values
from ptl_prefix.errors import PtlPrefixError


@dataclass(frozen=True, kw_only=True)
class DocumentFile(Generic[Document]):
    """One kind of file.

    Args:
        kind: The dataclass; it has a `schema_version`.
        version: The one that is read.
        max_bytes: A longer file is refused before it is read.
        name: How a sentence about one begins: "A run's record".
        error: What reading raises.
        write_advice: What the writer of an unfit one can do.
        read_advice: What the reader of a damaged one can do.
    """

    kind: type[Document]
    version: int
    max_bytes: int
    name: str
    error: type[PtlPrefixError]
    write_advice: str
    read_advice: str

    def write(self, path: str | Path, document: Document) -> None:
        """Write a document, or leave the old one.

        Raises:
            ValueError: If it holds what cannot be read back, such as NaN.
        """
        try:
            text = to_text(to_values(document))
        except DocumentError as error:
            law = f"{self.name} must hold finite values of the stated types"
            raise ValueError(f"{law}, but it {error}; {self.write_advice}") from error
        write_atomically(path, text)

    def read(self, path: str | Path) -> Document:
        """The document at `path`.

        Raises:
            PtlPrefixError: The kind's own error, if it is missing, damaged, or of another version.
        """
        try:
            return from_values(read_values(Path(path), max_bytes=self.max_bytes), self.kind, version=self.version)
        except DocumentError as error:
            law = f"{self.name} must be whole and of a version that is known here"
            raise self.error(f"{law}, but {path} {error}; {self.read_advice}") from error
