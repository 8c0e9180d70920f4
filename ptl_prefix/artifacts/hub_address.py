"""Addresses of repositories on the Hugging Face hub: `hub:<user>/<name>`, with `@<revision>` at the end if wanted.

In: what a user gave for a bundle or an adapter. Out: a `HubAddress`, and the folder on this machine that holds the
plain files of one of its commits. Nothing here uses the network.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from ptl_prefix.artifacts.user_cache import user_cache_folder
from ptl_prefix.errors import HubError

PREFIX = "hub:"
_PART = r"(?!-|\.)(?!.*(?:--|\.\.))[A-Za-z0-9_.-]{1,96}(?<![-.])"
_REPO = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CACHED = re.compile(r"models--([^/\\]+)--([^/\\]+)[/\\]snapshots[/\\][0-9a-f]{40}")
"""What the library's cache calls the folder of a model's commit."""


@dataclass(frozen=True)
class HubAddress:
    """A repository of the hub, as of a revision.

    Args:
        repo: `<user>/<name>`.
        revision: Branch, tag or commit.
    """

    repo: str
    revision: str = "main"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `hub:<user>/<name>[@<revision>]`.

        Raises:
            HubError: It has another form.
        """
        repo, at, revision = text.removeprefix(PREFIX).partition("@")
        if not text.startswith(PREFIX) or not is_repo(repo) or (at and not _REVISION.fullmatch(revision)):
            raise HubError(
                "An address on the hub must be hub:<user>/<name> or hub:<user>/<name>@<revision>, but is "
                f"{text!r:.300}; correct it."
            )
        return cls(repo, revision) if at else cls(repo)

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return _COMMIT.fullmatch(self.revision) is not None

    @property
    def folder(self) -> Path:
        """The folder with plain files of this commit, in the user's cache: the library's own cache holds links."""
        return _hub_folder() / self.repo.replace("/", "--") / self.revision

    def at(self, commit: str) -> Self:
        """The same repository as of a commit.

        Raises:
            HubError: `commit`, which a server sent, is none.
        """
        if not _COMMIT.fullmatch(commit):
            raise HubError(f"The hub must name a commit of {self.repo}, but sent {commit!r:.80}; try again later.")
        return replace(self, revision=commit)

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}@{self.revision}"


def is_hub_address(text: object) -> bool:
    """Whether a path is meant as an address on the hub."""
    return str(text).startswith(PREFIX)


def is_repo(text: str) -> bool:
    """Whether `text` may name a repository: `<user>/<name>`."""
    return _REPO.fullmatch(text) is not None


def origin_of(folder: Path) -> str:
    """The address that a folder was fetched from, with its commit; the folder itself if it is the user's own."""
    try:
        name, commit = folder.relative_to(_hub_folder()).parts
    except ValueError:
        return str(folder)
    return str(HubAddress(name.replace("--", "/"), commit))


def hub_name_of(path: str) -> str | None:
    """The name on the hub of a model's path; `None` if it has none."""
    if cached := _CACHED.search(path):
        return f"{cached[1]}/{cached[2]}"
    return path if is_repo(path) and not Path(path).exists() else None


def public_path(path: str) -> str | None:
    """A model's path that others have, too: on the hub, embedded, or in a package; `None` for a local folder."""
    if name := hub_name_of(path):
        return name
    is_local = os.path.isabs(os.path.expanduser(path)) or Path(path).exists()
    return None if is_local else path


def _hub_folder() -> Path:
    return user_cache_folder() / "hub"
