"""A bucket behind a faulty proxy, and a cache of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.object_store import BUCKET, FaultyStore, faulty_store

from ptl_prefix.artifacts.remote import object_store
from ptl_prefix.artifacts.remote.address import RemoteAddress


@pytest.fixture(scope="session")
def bucket() -> Iterator[FaultyStore]:
    with faulty_store() as store:
        yield store


@pytest.fixture
def store(bucket: FaultyStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FaultyStore:
    """An empty bucket without faults; the libraries find it by environment variables, as a user's do."""
    bucket.empty()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(object_store, "_FIRST_PAUSE_S", 0.01)
    return bucket


@pytest.fixture(params=["s3", "file"])
def address(request: pytest.FixtureRequest, store: FaultyStore, tmp_path: Path) -> RemoteAddress:
    """Where a run is mirrored: in the bucket, and in a folder."""
    root = f"s3://{BUCKET}/outputs" if request.param == "s3" else f"file://{tmp_path}/outputs"
    return RemoteAddress.parse(root) / "task" / "run"
