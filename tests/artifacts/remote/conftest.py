"""Where a run is mirrored."""

from pathlib import Path

import pytest
from support.object_store import BUCKET, FaultyStore

from ptl_prefix.artifacts.remote.address import RemoteAddress


@pytest.fixture(params=["s3", "file"])
def address(request: pytest.FixtureRequest, store: FaultyStore, tmp_path: Path) -> RemoteAddress:
    """In the bucket, and in a folder."""
    root = f"s3://{BUCKET}/outputs" if request.param == "s3" else f"file://{tmp_path}/outputs"
    return RemoteAddress.parse(root) / "task" / "run"
