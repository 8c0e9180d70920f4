"""Facts of a run that does not exist, for tests of sinks."""

from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.tracking.events import RunFacts


def make_facts(folder: Path, **changes: Any) -> RunFacts:
    """Create facts of a run; notifications and stop requests have no effect."""
    facts: dict[str, Any] = {
        "run_id": "some-run",
        "folder": RunFolder(folder),
        "config": {"method": {"name": "prefix_tuning", "prefix_length": 5}, "seed": 0},
        "resumed_step": None,
        "notify": lambda _: None,
        "request_stop": lambda: None,
    }
    return RunFacts(**{**facts, **changes})
