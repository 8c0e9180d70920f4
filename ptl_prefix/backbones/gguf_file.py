"""A GGUF file as the source of a backbone: of its config, tokenizer, chat template and weights.

In: the path of a file, or of a file inside an installed package. Out: `GgufFile`, which reads a folder in the Hugging
Face format that the file is converted to once. The folder is in the user's cache, under the hash of the file's content.
Before the conversion only the header is checked.
"""

import functools
import hashlib
from functools import cached_property
from pathlib import Path

from ptl_prefix.artifacts.lfs_pointer import lfs_pointer_fact
from ptl_prefix.artifacts.user_cache import user_cache_folder
from ptl_prefix.backbones.gguf_conversion import convert, model_problem
from ptl_prefix.backbones.gguf_header import GgufHeader, GgufHeaderError, pieces_of, read_header
from ptl_prefix.backbones.package_file import is_package_path, package_parts
from ptl_prefix.backbones.source import PretrainedFiles
from ptl_prefix.errors import BackboneError

_CACHE = "gguf"
"""Folder in the user's cache. It needs another name when a conversion writes anything else than before."""


class GgufFile(PretrainedFiles):
    """A pretrained model in one GGUF file, of a family in `gguf_conversion.ARCHITECTURES`.

    Its fingerprint is that of the dequantised weights in the folder that it is converted to: another quantisation of
    one model is another backbone.

    Args:
        path: Path of the file, or `package:<distribution>/<file>`.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)

    @cached_property
    def folder(self) -> Path:
        """The folder with the converted model; the file is converted first if it was not yet.

        Raises:
            BackboneError: When the file cannot be read or converted.
            StorageError: When the disk does not take the folder.
        """
        folder = self._folder_in_cache()
        if not folder.is_dir():
            header = self._header()
            convert(self._parts, header, folder, of=self.path)
        return folder

    @property
    def is_local(self) -> bool:
        """Whether the file was converted."""
        try:
            return self._folder_in_cache().is_dir()
        except BackboneError:
            return False

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user of a dry run; see `ShapeSource.notes`."""
        return (f"is read from {self.folder}, the converted file; its fingerprint is that of the dequantised weights",)

    def problems(self) -> list[str]:
        """What is wrong with the file's header, or with the folder if it was converted; no weights are read."""
        try:
            if not self.is_local:
                self._header()
                return []
        except BackboneError as error:
            return [str(error)]
        return super().problems()

    @cached_property
    def _parts(self) -> tuple[Path, ...]:
        """The file, or its parts in order, each of which exists.

        Raises:
            BackboneError: When there is no such file.
        """
        if is_package_path(self.path):
            return package_parts(self.path)
        try:
            path = Path(self.path).expanduser()
            is_file = path.is_file()
        except (OSError, RuntimeError, ValueError):  # too long, `~name` of nobody, or with U+0000
            is_file = False
        if not is_file:
            raise BackboneError(
                f"`backbone.path` must be a GGUF file that exists, but there is none at {self.path!r}; correct it."
            )
        if fact := lfs_pointer_fact(path):
            raise BackboneError(f"`backbone.path` must be a GGUF file, but '{self.path}' {fact}.")
        return (path,)

    def _folder_in_cache(self) -> Path:
        try:
            states = [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in self._parts]
            return user_cache_folder() / _CACHE / _content_hash(tuple(states))
        except OSError as error:
            raise self._unreadable(error) from error

    def _header(self) -> GgufHeader:
        """The header of a file that can be converted.

        Raises:
            BackboneError: When it cannot.
        """
        try:
            header = read_header(self._parts[0])
            num_bytes = sum(path.stat().st_size for path in self._parts)
        except OSError as error:
            raise self._unreadable(error) from error
        except GgufHeaderError as error:
            raise BackboneError(f"`backbone.path` must be a GGUF file, but '{self.path}' {error}.") from None
        if num_bytes < header.num_bytes:
            raise BackboneError(
                f"`backbone.path` must be a whole GGUF file, but '{self.path}' has {num_bytes:,} of at least "
                f"{header.num_bytes:,} bytes: it is truncated; get it again."
            )
        if problem := model_problem(header):
            raise BackboneError(
                f"`backbone.path` must be a GGUF file that can be converted, but '{self.path}' {problem}."
            )
        return header

    def _unreadable(self, error: OSError) -> BackboneError:
        return BackboneError(
            f"`backbone.path` must be a GGUF file that can be read, but '{self.path}' cannot be ({error.strerror}); "
            "change its permissions."
        )


@functools.lru_cache(maxsize=16)
def _content_hash(states: tuple[tuple[Path, int, int], ...]) -> str:
    """The SHA-256 of a file's content, from its parts; their sizes and times are arguments so that a change is seen."""
    digest = hashlib.sha256()
    for piece in pieces_of([path for path, *_ in states]):
        digest.update(piece)
    return digest.hexdigest()
