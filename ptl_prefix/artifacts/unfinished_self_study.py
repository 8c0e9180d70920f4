"""What an unfinished self-study has so far, so that a killed one can be resumed.

In: blocks of conversations with the teacher's log-probabilities, by their numbers. Out: files in a folder of their own,
and the blocks in them. A block is there whole or not at all, and a damaged one counts as missing. One process at a time
has the folder.
"""

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, ClassVar, Self

from annotated_types import Ge
from pydantic import ConfigDict

from ptl_prefix.artifacts.atomic import place_errors, write_atomically
from ptl_prefix.artifacts.file_lock import FileLock
from ptl_prefix.artifacts.json_document import (
    STRICT,
    DocumentError,
    from_values,
    read_bounded,
    read_values,
    to_text,
    to_values,
)
from ptl_prefix.artifacts.self_study_facts import StudyConversation
from ptl_prefix.artifacts.teacher_file import TeacherTokens, parse_teacher, teacher_bytes
from ptl_prefix.errors import RunError

_MAX_BYTES = 2**31
_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyBlock:
    """Conversations that were generated together.

    Args:
        conversations: Those that are kept.
        teacher: Log-probabilities of each of them.
        asked: Number of questions.
        dropped: Number of questions and answers that are not kept, by reason.
        given_up: Number of wanted conversations that no attempt gave.
    """

    conversations: Sequence[StudyConversation]
    teacher: Sequence[TeacherTokens]
    asked: int
    dropped: dict[str, int]
    given_up: int


@dataclass(frozen=True, kw_only=True)
class _BlockFacts:
    """A block without its log-probabilities, whose file has this hash."""

    conversations: tuple[StudyConversation, ...]
    asked: Annotated[int, Ge(0)]
    dropped: dict[str, int]
    given_up: Annotated[int, Ge(0)]
    teacher_sha256: str
    schema_version: int = _VERSION

    __pydantic_config__: ClassVar[ConfigDict] = STRICT


class UnfinishedSelfStudy:
    """The folder of an unfinished self-study.

    Args:
        folder: Path of the folder, which is created if it is missing.

    Raises:
        RunError: Another process is using the folder.
        StorageError: The disk does not take the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with place_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        busy = RunError(
            f"A self-study must have one process at a time, but another process is writing {folder}; wait for it."
        )
        self._lock = FileLock(folder / "lock", timeout_s=0.0, busy=busy, required=False)
        self._lock.acquire()

    def read(self, number: int) -> StudyBlock | None:
        """A block of an earlier process; `None` if it is missing or damaged."""
        try:
            facts = from_values(read_values(self._facts(number), max_bytes=_MAX_BYTES), _BlockFacts, version=_VERSION)
            content = read_bounded(self._teacher(number), max_bytes=_MAX_BYTES) if facts.conversations else b""
            if hashlib.sha256(content).hexdigest() != facts.teacher_sha256:
                return None
            teacher = parse_teacher(content) if facts.conversations else []
        except DocumentError:
            return None
        return StudyBlock(
            conversations=facts.conversations,
            teacher=teacher,
            asked=facts.asked,
            dropped=facts.dropped,
            given_up=facts.given_up,
        )

    def add(self, number: int, block: StudyBlock) -> None:
        """Write a block; the file that is written last makes it whole.

        Raises:
            StorageError: The disk does not take it; earlier blocks are kept.
        """
        content = teacher_bytes(block.teacher) if block.teacher else b""
        facts = _BlockFacts(
            conversations=tuple(block.conversations),
            asked=block.asked,
            dropped=block.dropped,
            given_up=block.given_up,
            teacher_sha256=hashlib.sha256(content).hexdigest(),
        )
        write_atomically(self._teacher(number), content)
        write_atomically(self._facts(number), to_text(to_values(facts)))

    def remove(self) -> None:
        """Remove the folder, once the self-study is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _facts(self, number: int) -> Path:
        return self._folder / f"block-{number:05d}.json"

    def _teacher(self, number: int) -> Path:
        return self._folder / f"block-{number:05d}.safetensors"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._lock.release()
