"""API keys: who may ask, and whom a request counts for.

In: a file of keys, and two environment variables. Out: `ApiKeys`, which holds hashes only and compares them in constant
time. A key never stands on the command line, where every user of the machine can read it, nor in a config.

A line of the file is `<client> <key> [admin]`, where the key is itself or `sha256:<64 hexadecimal digits>` of it; `#`
starts a comment. A key of an admin may load and unload prefixes.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ptl_prefix.errors import ConfigError

KEY_VARIABLE = "PTL_PREFIX_API_KEY"
ADMIN_KEY_VARIABLE = "PTL_PREFIX_ADMIN_KEY"
MIN_KEY_LENGTH = 16
"""A hash without salt hides a key only if the key cannot be guessed."""

_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_COMMENT = re.compile(r"(^|\s)#.*")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Client:
    """Who sent a request.

    Args:
        name: Name of the key, for which the engine shares its time.
        is_admin: Whether prefixes may be loaded and unloaded.
    """

    name: str
    is_admin: bool


class ApiKeys:
    """The keys that a server accepts.

    Args:
        clients: Clients by the SHA-256 hash of their key.
    """

    def __init__(self, clients: Mapping[bytes, Client]) -> None:
        self._clients = dict(clients)

    def __len__(self) -> int:
        return len(self._clients)

    def find(self, authorization: str | None) -> Client | None:
        """The client of an `Authorization: Bearer <key>` header; `None` if there is none.

        Each hash is compared, and each comparison takes as long as any other.
        """
        scheme, _, key = (authorization or "").partition(" ")
        digest = _digest(key.strip())
        found = None
        for other, client in self._clients.items():
            if hmac.compare_digest(other, digest) and scheme.lower() == "bearer":
                found = client
        return found


def generated_key() -> tuple[str, ApiKeys]:
    """A new key, and the keys of a server that accepts it alone, for everything."""
    key = f"ptl-{secrets.token_urlsafe(32)}"
    return key, ApiKeys({_digest(key): Client("local", is_admin=True)})


def read_keys(path: str | None, environment: Mapping[str, str]) -> ApiKeys:
    """The keys of a file and of the environment.

    Args:
        path: File of keys; `None` if there is none.
        environment: Environment variables.

    Raises:
        ConfigError: With every line that is wrong; never with a key.
    """
    clients: dict[bytes, Client] = {}
    problems: list[str] = []
    for where, line in [*_file_lines(path, problems), *_environment_lines(environment)]:
        try:
            digest, client = _read_line(line)
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        if digest in clients:
            problems.append(
                f"{where}: each key must stand once, but this one is also that of {clients[digest].name!r}."
            )
        clients[digest] = client
    if problems:
        raise ConfigError(problems)
    return ApiKeys(clients)


def _file_lines(path: str | None, problems: list[str]) -> list[tuple[str, str]]:
    if path is None:
        return []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"`api_keys_file` must be a readable text file, but '{path}' is not ({type(error).__name__}).")
        return []
    found = [
        (f"`api_keys_file`, line {number}", text)
        for number, line in enumerate(lines, 1)
        if (text := _COMMENT.sub("", line).strip())
    ]
    if not found:
        problems.append(f"`api_keys_file` must hold a key, but '{path}' holds none.")
    return found


def _environment_lines(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    key, admin = environment.get(KEY_VARIABLE), environment.get(ADMIN_KEY_VARIABLE)
    return [
        *([(f"${KEY_VARIABLE}", f"environment {key}")] if key else []),
        *([(f"${ADMIN_KEY_VARIABLE}", f"environment-admin {admin} admin")] if admin else []),
    ]


def _read_line(line: str) -> tuple[bytes, Client]:
    words = line.split()
    if len(words) not in (2, 3) or words[2:] not in ([], ["admin"]):
        raise ValueError("a line must be `<client> <key> [admin]`, but has other words.")
    name, key = words[:2]
    if not _CLIENT.fullmatch(name):
        raise ValueError("a client's name must have 1 to 64 of the characters A-Z a-z 0-9 . _ -, but has others.")
    if match := _HASH.fullmatch(key):
        return bytes.fromhex(match[1]), Client(name, is_admin=len(words) == 3)
    if key.startswith("sha256:"):
        raise ValueError("a hash must be `sha256:` and 64 digits of 0-9 a-f, but is not.")
    if len(key) < MIN_KEY_LENGTH:
        raise ValueError(f"a key must have at least {MIN_KEY_LENGTH} characters, but has {len(key)}.")
    return _digest(key), Client(name, is_admin=len(words) == 3)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
