"""Addresses in an object store: `s3://<bucket>/<path>`, `gs://<bucket>/<path>` or `file:///<path>`.

In: what a user gave where a run folder, a bundle or `outputs_url` is wanted. Out: a `RemoteAddress`. Nothing here uses
the network.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from ptl_prefix.artifacts.run_folder import as_name, is_name
from ptl_prefix.errors import ObjectStoreError

LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "file": None}
"""The schemes, each with the library that fsspec needs for it; `None` needs none."""

STUDIES = "sweeps"
"""The part of an address below which the studies are."""

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/+(.*)", re.DOTALL)
_KNOWN = re.compile(rf"(?:{'|'.join(LIBRARIES)}):/")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_PART = re.compile(r"[^\x00-\x1f/?#\\]{1,255}")
"""A part of a path that every store takes, and that is no query of a URL."""


@dataclass(frozen=True)
class RemoteAddress:
    """A place in an object store.

    Args:
        scheme: `s3`, `gs` or `file`.
        path: Bucket and key; of `file` the absolute path.
    """

    scheme: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address. A `Path` joins slashes, so that `s3:/bucket` is read, too.

        Raises:
            ObjectStoreError: The scheme is unknown, or the rest is not a bucket with a path.
        """
        match = _ADDRESS.fullmatch(text)
        scheme, rest = (match[1], match[2].rstrip("/")) if match else ("", "")
        if scheme not in LIBRARIES:
            raise ObjectStoreError(
                f"An address in an object store must begin with {', '.join(f'{one}://' for one in LIBRARIES)}, but is "
                f"{text!r:.300}; correct it."
            )
        parts = rest.split("/")
        is_place = all(_PART.fullmatch(part) and part.strip(".") for part in parts)
        if not is_place or (scheme != "file" and not _BUCKET.fullmatch(parts[0])):
            wanted = "file:///<absolute path>" if scheme == "file" else f"{scheme}://<bucket>/<path>"
            raise ObjectStoreError(f"An address of {scheme} must be {wanted}, but is {text!r:.300}; correct it.")
        return cls(scheme, f"/{rest}" if scheme == "file" else rest)

    def __truediv__(self, name: str) -> Self:
        return replace(self, path=f"{self.path}/{name}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    @property
    def names(self) -> list[str]:
        """The parts of the path, the bucket first."""
        return self.path.strip("/").split("/")


def is_remote_address(text: object) -> bool:
    """Whether a path is meant as an address in an object store."""
    return _KNOWN.match(str(text)) is not None


def run_address(config: Mapping[str, Any]) -> RemoteAddress | None:
    """Where a run is mirrored, which its config alone decides; `None` if it is not.

    A single run is at `<outputs_url>/<task>/<backbone>/<method>/<run_id>`, a trial of a study at
    `<outputs_url>/sweeps/<study>-<token>/<arm>/<number>`.

    Args:
        config: Config of the run.
    """
    if config.get("outputs_url") is None:
        return None
    address = RemoteAddress.parse(config["outputs_url"])
    for name in place_of(config):
        address /= name
    return address


def place_of(config: Mapping[str, Any]) -> list[str]:
    """The names below `outputs_url` that lead to a run."""
    run_id, study, trial = str(config["run_id"]), config.get("study"), config.get("trial")
    if study is None or trial is None:
        names = [*(str(config[key]["name"]) for key in ("task", "backbone", "method")), run_id]
    else:
        token, _, arm = run_id.removeprefix(f"{study}-").removesuffix(f"-{trial}").partition("-")
        names = [STUDIES, f"{study}-{token}", *([arm] if arm else []), str(trial)]
    return [name if is_name(name) else as_name(name) for name in names]
