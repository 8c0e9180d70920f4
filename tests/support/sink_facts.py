"""What a sink is told of a run that does not exist."""

from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.tracking.events import RunFacts


def make_facts(folder: Path, **changes: Any) -> RunFacts:
    """Facts of a run in a folder; it says nothing to anybody and cannot be stopped."""
    facts: dict[str, Any] = {
        "run_id": "some-run",
        "folder": RunFolder(folder),
        "config": {"method": {"name": "prefix_tuning", "prefix_length": 5}, "seed": 0},
        "resumed_step": None,
        "notify": lambda _: None,
        "request_stop": lambda: None,
    }
    return RunFacts(**{**facts, **changes})
