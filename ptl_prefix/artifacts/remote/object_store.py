"""Objects in a store, through fsspec. No other file imports it.

In: an address, and bytes or a file. Out: bytes, a file, names or a size; else an `ObjectStoreError` of one sentence.
Each request is repeated with growing pauses while the store answers with errors that may pass. Nothing is kept of
listings, which a store may answer from an older state; a key is always asked for itself.

An object is written whole or not at all: S3 and Google Cloud Storage show an upload when it is complete, and a file is
written beside its place and renamed.
"""

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ptl_prefix.artifacts.atomic import write_atomically, write_file_atomically
from ptl_prefix.artifacts.file_lock import FileLock
from ptl_prefix.artifacts.remote.address import LIBRARIES, RemoteAddress
from ptl_prefix.artifacts.remote.store_errors import as_store_error, may_pass, was_refused
from ptl_prefix.errors import ObjectStoreError

Result = TypeVar("Result")

_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 20
_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.2
_LOCK = ".lock"
_LOCK_TIMEOUT_S = 10.0

_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "use_listings_cache": False,
        "skip_instance_cache": True,
        "config_kwargs": {
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "read_timeout": _READ_TIMEOUT_S,
            "retries": {"max_attempts": 1, "mode": "standard"},
        },
    },
    "gs": {"use_listings_cache": False, "skip_instance_cache": True, "timeout": _READ_TIMEOUT_S},
    "file": {"skip_instance_cache": True},
}


class ReplacedError(ObjectStoreError):
    """An object is another one than the writer has read: somebody else has written it."""


class DamagedObjectError(ObjectStoreError):
    """An object, or what names it, is not as it must be: asking again does not help, and other objects are in order."""


class ObjectStore:
    """The objects below an address.

    Args:
        scheme: Scheme of the addresses.
        attempts: Number of times that a request is sent before its error is raised.

    Raises:
        ObjectStoreError: The library of the scheme is not installed.
    """

    def __init__(self, scheme: str, *, attempts: int = _ATTEMPTS) -> None:
        self._attempts = attempts
        self._is_local = scheme == "file"
        try:
            self._files = _file_system(scheme, os.getpid())
        except ImportError as error:
            raise ObjectStoreError(
                f"An address of {scheme}:// needs {LIBRARIES[scheme]}, which cannot be imported ({error}); run pip "
                f"install 'ptl-prefix[{'gcs' if scheme == 'gs' else 'storage'}]'."
            ) from error

    def read(self, address: RemoteAddress, *, max_bytes: int) -> bytes | None:
        """The content of a small object; `None` if there is none.

        Raises:
            DamagedObjectError: It is longer than `max_bytes`.
            ObjectStoreError: The store cannot be read.
        """
        found = self.read_tagged(address, max_bytes=max_bytes)
        return None if found is None else found[0]

    def read_tagged(self, address: RemoteAddress, *, max_bytes: int) -> tuple[bytes, str] | None:
        """The content of a small object and the tag of its version, for `write_if`; `None` if there is none."""

        def read() -> tuple[bytes, str] | None:
            for _ in range(self._attempts):
                info = self._info(address)
                if info is None:
                    return None
                if info["size"] > max_bytes:
                    raise DamagedObjectError(
                        f"{address} must have at most {max_bytes:,} bytes, but has {info['size']:,}; do not use it."
                    )
                try:
                    content = bytes(self._files.cat_file(address.path))
                except FileNotFoundError:
                    continue
                after = self._info(address)
                if after is not None and _tag(after) == _tag(info) and len(content) == info["size"]:
                    return content, _tag(info)
            raise ConnectionError(f"{address} changes while it is read")

        return self._repeated(f"{address} must be readable", read)

    def size(self, address: RemoteAddress) -> int | None:
        """The size of an object in bytes; `None` if there is none."""
        info = self._repeated(f"{address} must be readable", lambda: self._info(address))
        return None if info is None else int(info["size"])

    def fetch(self, address: RemoteAddress, path: Path) -> bool:
        """Write an object to a file; `False` if there is no such object."""

        def fetch() -> bool:
            try:
                self._files.get_file(address.path, str(path))
            except FileNotFoundError:
                return False
            return True

        return self._repeated(f"{address} must be readable", fetch)

    def upload(self, path: Path, address: RemoteAddress) -> None:
        """Write a file to an object."""

        def upload() -> None:
            if self._is_local:
                with write_file_atomically(address.path) as temporary:
                    self._files.put_file(str(path), str(temporary))
            else:
                self._files.put_file(str(path), address.path)

        if self._is_local:
            Path(address.path).parent.mkdir(parents=True, exist_ok=True)
        self._repeated(f"{address} must be written", upload)

    def write(self, address: RemoteAddress, content: bytes) -> None:
        """Write a small object, whatever is there."""

        def write() -> None:
            if self._is_local:
                write_atomically(address.path, content)
            else:
                self._files.pipe_file(address.path, content)

        self._repeated(f"{address} must be written", write)

    def write_if(self, address: RemoteAddress, content: bytes, *, tag: str | None) -> None:
        """Write a small object, if it is still the version of a tag.

        S3 compares and writes in one step, and so do we for files, under a lock. Google Cloud Storage compares only
        that a new object is new; an existing one is compared right before it is written.

        Args:
            address: Address of the object.
            content: New content.
            tag: Tag of the version that it replaces; `None` for an object that must not exist yet.

        Raises:
            ReplacedError: It is another version, which somebody else has written.
        """

        def write() -> None:
            try:
                self._write_if(address, content, tag)
            except Exception as error:
                if not was_refused(error):
                    raise
                found = self.read(address, max_bytes=max(len(content), 2**20))
                if found != content:  # else the answer of our own first attempt was lost
                    raise ReplacedError(
                        f"{address} must be written by one process, but another one has written it meanwhile; let "
                        "that one go on."
                    ) from error

        self._repeated(f"{address} must be written", write)

    def _write_if(self, address: RemoteAddress, content: bytes, tag: str | None) -> None:
        if self._is_local:
            path = Path(address.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            busy = TimeoutError(f"{path} is locked")
            with FileLock(path.with_name(_LOCK), timeout_s=_LOCK_TIMEOUT_S, busy=busy):
                self._require_tag(address, tag)
                write_atomically(path, content)
            return
        if tag is None:
            self._files.pipe_file(address.path, content, mode="create")
            return
        if "s3" in self._files.protocol:
            self._files.pipe_file(address.path, content, IfMatch=f'"{tag}"')
            return
        self._require_tag(address, tag)
        self._files.pipe_file(address.path, content)

    def _require_tag(self, address: RemoteAddress, tag: str | None) -> None:
        info = self._info(address)
        if (None if info is None else _tag(info)) != tag:
            raise FileExistsError(f"{address} is another version")

    def remove(self, address: RemoteAddress) -> None:
        """Remove an object; nothing happens if there is none."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(address.path)

        self._repeated(f"{address} must be removed", remove)

    def names(self, address: RemoteAddress) -> tuple[list[str], dict[str, float]]:
        """What a listing shows directly below an address, which may be an older state.

        Returns:
            The names of folders, and the objects with the seconds since 1970 of their last writing.
        """

        def listed() -> list[dict[str, Any]]:
            try:
                return list(self._files.ls(address.path, detail=True, refresh=True))
            except FileNotFoundError:
                return []

        entries = self._repeated(f"{address} must be readable", listed)
        of_folder = {str(entry["name"]).rstrip("/").rpartition("/")[2]: entry for entry in entries}
        folders = sorted(name for name, entry in of_folder.items() if entry["type"] == "directory")
        objects = {name: _written(entry) for name, entry in of_folder.items() if entry["type"] == "file" and name}
        return folders, objects

    def _info(self, address: RemoteAddress) -> dict[str, Any] | None:
        try:
            info: dict[str, Any] = self._files.info(address.path)
        except FileNotFoundError:
            return None
        return info if info["type"] == "file" else None

    def _repeated(self, law: str, request: Callable[[], Result]) -> Result:
        """Send a request until it succeeds, or fails in a way that will not pass, or has failed often enough."""
        for pause in _pauses(self._attempts):
            try:
                return request()
            except ObjectStoreError:
                raise
            except Exception as error:  # the libraries raise many types
                if pause is None or not may_pass(error):
                    raise as_store_error(law, error) from error
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


@cache
def _file_system(scheme: str, process: int) -> Any:
    """The file system of a scheme; a forked process has another one, as connections belong to a process."""
    # Imported here: every verb imports this file, and few commands reach a store.
    import fsspec

    files = fsspec.filesystem(scheme, **_OPTIONS[scheme])
    if scheme == "s3":
        files.retries = 1  # `_repeated` is the only one that repeats
    return files


def _pauses(attempts: int) -> Iterator[float | None]:
    """The pause after each attempt in seconds, twice as long each time; `None` after the last one."""
    for attempt in range(attempts - 1):
        yield _FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5)
    yield None


def _tag(info: dict[str, Any]) -> str:
    """What changes when an object is written."""
    for key in ("ETag", "etag", "generation"):
        if key in info:
            return str(info[key]).strip('"')
    return f"{info['ino']}-{info['size']}-{info['mtime']}"


def _written(info: dict[str, Any]) -> float:
    for key in ("LastModified", "mtime", "updated"):
        if (value := info.get(key)) is not None:
            return float(value) if isinstance(value, int | float) else float(value.timestamp())
    return time.time()
