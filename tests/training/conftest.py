"""Trainings that take a moment."""

import pytest
from support.tiny_runs import TinyRuns


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """Plans on a tiny GPT-2."""
    return TinyRuns(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def dropping_runs(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """Plans on a tiny GPT-2 whose own dropout is strong."""
    return TinyRuns(tmp_path_factory.mktemp("dropping"), dropout=0.5)
