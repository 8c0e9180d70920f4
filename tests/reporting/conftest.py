"""Comparisons of made-up runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.made_up_runs import MadeUp, make_run

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.reporting.compared_run import read_runs
from ptl_prefix.reporting.comparison import Comparison, compare

Runs = Callable[..., list[RunFolder]]


@pytest.fixture
def folders(tmp_path: Path) -> Runs:
    """Make run folders, numbered from 0."""

    def make(*runs: MadeUp) -> list[RunFolder]:
        start = len(list(tmp_path.glob("runs/*")))
        return [make_run(tmp_path / "runs" / str(start + number), run) for number, run in enumerate(runs)]

    return make


@pytest.fixture
def compared(folders: Runs) -> Callable[..., Comparison]:
    """Compare made-up runs."""

    def make(*runs: MadeUp, **settings: Any) -> Comparison:
        return compare(read_runs(folders(*runs), ())[0], **settings)

    return make


@pytest.fixture
def two_methods() -> list[MadeUp]:
    """Prefixes of two lengths and LoRA, over three seeds: the longer prefix is the best, LoRA clearly the worst."""
    noise = (0.0, 1.0, 2.5)
    runs = [
        MadeUp(seed=seed, bleu=60 + by, loss=1.0 + by / 10, settings={"prefix_length": 20}, stored=200)
        for seed, by in enumerate(noise)
    ]
    runs += [MadeUp(seed=seed, bleu=61.5 - by, loss=1.1 + by / 9) for seed, by in enumerate(noise)]
    runs += [
        MadeUp(seed=seed, bleu=50 + by, loss=2.0 + by / 8, method="lora", settings={"rank": 8}, trained=80, stored=80)
        for seed, by in enumerate((0.0, 1.1, 2.4))
    ]
    return runs
