"""One dataclass as one JSON file: written atomically, read strictly.

In: a dataclass, and the words of its error messages. Out: a writer and a reader.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.json_document import Document, DocumentError, from_values, read_values, to_text, to_values
from ptl_prefix.errors import PtlPrefixError


@dataclass(frozen=True, kw_only=True)
class DocumentFile(Generic[Document]):
    """A kind of file, with its writer and reader.

    Args:
        kind: Dataclass of the document; it has a `schema_version`.
        version: Schema version that can be read.
        max_bytes: Largest size of a file; a larger one is refused before it is read.
        name: Start of a message about such a document: "A run's record".
        error: Error class of the reader.
        write_advice: Advice at the end of a message about a document that cannot be written.
        read_advice: Advice at the end of a message about a file that cannot be read.
    """

    kind: type[Document]
    version: int
    max_bytes: int
    name: str
    error: type[PtlPrefixError]
    write_advice: str
    read_advice: str

    def write(self, path: str | Path, document: Document) -> None:
        """Write a document atomically.

        Raises:
            ValueError: If it holds a value that cannot be read back, such as NaN.
        """
        try:
            text = to_text(to_values(document))
        except DocumentError as error:
            law = f"{self.name} must hold finite values of the stated types"
            raise ValueError(f"{law}, but it {error}; {self.write_advice}") from error
        write_atomically(path, text, follow_links=False)

    def read(self, path: str | Path) -> Document:
        """Read the document at `path`.

        Raises:
            PtlPrefixError: `error`, if the file is missing, damaged or of another version; a `RunError` if it is a
                symbolic link.
        """
        try:
            values = read_values(Path(path), max_bytes=self.max_bytes, follow_links=False)
            return from_values(values, self.kind, version=self.version)
        except DocumentError as error:
            law = f"{self.name} must be whole and of a known version"
            raise self.error(f"{law}, but {path} {error}; {self.read_advice}") from error
