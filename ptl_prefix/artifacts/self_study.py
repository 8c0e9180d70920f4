"""A self-study: conversations on a document, with a teacher's log-probabilities, as a folder.

In: conversations, what the teacher predicted for each answer token, and the facts of both. Out: a folder that is there
whole or not at all, and the same read back; else `DataError`.

    study.json                  document, backbone, prompt format, settings, counts, and the hashes of the other files
    document.txt                text of the document
    conversations.jsonl         one conversation a line
    teacher-00000.safetensors   the teacher's log-probabilities of the first 256 conversations; more files follow
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from ptl_prefix.artifacts.atomic import write_folder_atomically, write_new_file
from ptl_prefix.artifacts.conversation import ContextPlace, with_context
from ptl_prefix.artifacts.json_document import (
    DocumentError,
    from_values,
    hash_of,
    parse_values,
    read_bounded,
    to_text,
    to_values,
)
from ptl_prefix.artifacts.self_study_facts import SELF_STUDY_VERSION, SelfStudyFacts, StudyConversation, StudyCounts
from ptl_prefix.artifacts.teacher_file import TeacherTokens, parse_teacher, teacher_bytes
from ptl_prefix.errors import DataError

__all__ = [
    "ContextPlace",
    "SelfStudy",
    "SelfStudyFacts",
    "StudyConversation",
    "StudyCounts",
    "TeacherTokens",
    "read_self_study",
    "with_context",
    "write_self_study",
]

STUDY_FILE, DOCUMENT_FILE, CONVERSATIONS_FILE = "study.json", "document.txt", "conversations.jsonl"
SHARD_CONVERSATIONS = 256
"""Conversations in one file of log-probabilities."""

_SEAL = "study_sha256"
"""The key of `study.json` with the hash of all others."""
_MAX_FACTS_BYTES, _MAX_FILE_BYTES = 16 * 2**20, 2**31


@dataclass(frozen=True, eq=False)
class SelfStudy:
    """A finished folder.

    Args:
        folder: Path of the folder.
        facts: Its facts.
        document: Text of the document.
        conversations: The conversations, in their order.
    """

    folder: Path
    facts: SelfStudyFacts
    document: str
    conversations: tuple[StudyConversation, ...]

    def teacher(self, id: str) -> TeacherTokens:
        """The teacher's log-probabilities for the answer of a conversation.

        Raises:
            KeyError: No conversation has the id.
            DataError: The file was changed after the folder was read.
        """
        shard, place = divmod(self._places[id], SHARD_CONVERSATIONS)
        return self._shard(shard)[place]

    def split(self, split: str) -> tuple[StudyConversation, ...]:
        """The conversations of a split."""
        return tuple(one for one in self.conversations if one.split == split)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {conversation.id: place for place, conversation in enumerate(self.conversations)}

    @cached_property
    def _shards(self) -> dict[int, list[TeacherTokens]]:
        return {}

    def _shard(self, number: int) -> list[TeacherTokens]:
        """The log-probabilities in one file, which stay in memory."""
        if number not in self._shards:
            name = _shard_name(number)
            with _folder_errors(self.folder / name):
                answers = parse_teacher(_checked(self.folder / name, self.facts.files.get(name)))
                num_wanted = len(self.conversations[number * SHARD_CONVERSATIONS :][:SHARD_CONVERSATIONS])
                if len(answers) != num_wanted:
                    raise DocumentError(f"holds {len(answers)} answers, not {num_wanted}")
                self._shards[number] = answers
        return self._shards[number]


def write_self_study(
    folder: str | Path,
    facts: SelfStudyFacts,
    document: str,
    conversations: Sequence[StudyConversation],
    teacher: Mapping[str, TeacherTokens],
) -> SelfStudy:
    """Write a folder, whole or not at all, and read it back.

    Args:
        folder: Path of the folder; what is there is replaced.
        facts: Facts of the self-study; its `files` are filled in here.
        document: Text of the document.
        conversations: The conversations, in their order.
        teacher: Log-probabilities of each conversation, by its id.

    Raises:
        DataError: They do not belong together, such as two conversations with one id.
        StorageError: The disk does not take the folder.
    """
    contents = {DOCUMENT_FILE: document.encode(), CONVERSATIONS_FILE: "".join(map(_line, conversations)).encode()}
    for number, start in enumerate(range(0, len(conversations), SHARD_CONVERSATIONS)):
        shard = conversations[start : start + SHARD_CONVERSATIONS]
        contents[_shard_name(number)] = teacher_bytes([teacher[one.id] for one in shard])
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    values = {**to_values(facts), "files": hashes}
    with write_folder_atomically(folder) as unfinished:
        for name, content in contents.items():
            write_new_file(unfinished / name, content)
        write_new_file(unfinished / STUDY_FILE, to_text({**values, _SEAL: hash_of(values)}).encode())
        read_self_study(unfinished)
    return read_self_study(folder)


def read_self_study(folder: str | Path) -> SelfStudy:
    """Read and check a folder; log-probabilities are read when they are asked for.

    Raises:
        DataError: The folder is missing, unfinished, damaged or of another version.
    """
    folder = Path(folder)
    with _folder_errors(folder / STUDY_FILE):
        values = parse_values(read_bounded(folder / STUDY_FILE, max_bytes=_MAX_FACTS_BYTES, follow_links=False))
        seal = values.pop(_SEAL, None)
        facts = from_values(values, SelfStudyFacts, version=SELF_STUDY_VERSION)
        if seal != hash_of(values):
            raise DocumentError(f"does not agree with its own `{_SEAL}`")
    contents: dict[str, bytes] = {}
    for name in (DOCUMENT_FILE, CONVERSATIONS_FILE):
        with _folder_errors(folder / name):
            contents[name] = _checked(folder / name, facts.files.get(name))
    with _folder_errors(folder / CONVERSATIONS_FILE):
        conversations = tuple(_conversations(contents[CONVERSATIONS_FILE], facts))
    study = SelfStudy(folder, facts, contents[DOCUMENT_FILE].decode(), conversations)
    for number in range(-(-len(conversations) // SHARD_CONVERSATIONS)):
        with _folder_errors(folder / _shard_name(number)):
            _checked(folder / _shard_name(number), facts.files.get(_shard_name(number)))
    return study


def _conversations(content: bytes, facts: SelfStudyFacts) -> Iterator[StudyConversation]:
    found: set[str] = set()
    for number, line in enumerate(content.decode().split("\n")[:-1], start=1):
        try:
            one = from_values(parse_values(line.encode()), StudyConversation, version=None)
        except DocumentError as error:
            raise DocumentError(f"has a line {number} that {error}") from error
        if one.id in found:
            raise DocumentError(f"has the id {one.id!r} twice")
        if one.chunk is not None and not one.chunk[0] < one.chunk[1] <= facts.document_tokens:
            raise DocumentError(f"has the chunk {one.chunk} of a document of {facts.document_tokens} tokens")
        found.add(one.id)
        yield one


def _line(conversation: StudyConversation) -> str:
    return json.dumps(asdict(conversation), ensure_ascii=False) + "\n"


def _shard_name(number: int) -> str:
    return f"teacher-{number:05d}.safetensors"


def _checked(path: Path, sha256: str | None) -> bytes:
    content = read_bounded(path, max_bytes=_MAX_FILE_BYTES, follow_links=False)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DocumentError(f"has other content than {STUDY_FILE} says")
    return content


@contextmanager
def _folder_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except DocumentError as error:
        law = "A self-study must be whole and unchanged since it was made"
        raise DataError(f"{law}, but {path} {error}; remove its folder, and make it again.") from error
