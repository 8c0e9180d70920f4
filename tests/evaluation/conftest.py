"""A tiny backbone and plans on it."""

import pytest
from support.tiny_runs import TinyRuns


@pytest.fixture(scope="session", params=["gpt2", "llama"])
def tiny_runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """Plans on a tiny backbone of each family."""
    return TinyRuns(tmp_path_factory.mktemp("tiny"), request.param)


@pytest.fixture(scope="session")
def dropping_runs(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """Plans on a tiny GPT-2 whose own dropout is strong."""
    return TinyRuns(tmp_path_factory.mktemp("dropping"), dropout=0.5)
