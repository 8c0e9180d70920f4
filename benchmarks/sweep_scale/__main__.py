"""Simulates a study on a large cluster: the scheduler is the real one, time and machines are not.

    python -m benchmarks.sweep_scale                                  # 10,000 trials, 1,000 workers
    python -m benchmarks.sweep_scale trials=400 workers=200 step_s=0.2 latency_s=0.02
    python -m benchmarks.sweep_scale --scan                           # shorter and shorter trials, on 100 workers
    python -m benchmarks.sweep_scale --figures docs/_static           # the plots, from the stored reports

In: changes to `ClusterSettings`. Out: a report for each simulation in `--out`; a simulation whose report is there
already is not repeated, so a scan that was interrupted goes on. All but the fields `cpu_ms`, `cpu_s` and `peak_mb`
follow from the seed, on any machine: `cpu_ms` is processor time (`time.process_time`), not time on the clock.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks.sweep_scale.cluster import Cluster
from benchmarks.sweep_scale.figures import draw
from benchmarks.sweep_scale.ledger import MUST_BE_NONE
from benchmarks.sweep_scale.settings import SCAN, ClusterSettings
from ptl_prefix.artifacts.atomic import write_atomically

_MEMORY = Path("/dev/shm")


def parse_settings(words: Sequence[str]) -> ClusterSettings:
    """The settings with the changes of the command line.

    Raises:
        ValueError: A word is not `name=value`, or the name is no setting.
    """
    defaults = asdict(ClusterSettings())
    changes: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in defaults:
            names = ", ".join(field.name for field in fields(ClusterSettings))
            raise ValueError(f"A setting must be name=value, but {word!r} is none; the names are {names}.")
        kind = type(defaults[name])
        changes[name] = value in ("1", "true", "True") if kind is bool else kind(value)
    return ClusterSettings(**changes)


def report_path(folder: Path, settings: ClusterSettings) -> Path:
    """The file of a simulation's report, whose name depends on all of its settings."""
    key = hashlib.sha256(json.dumps(asdict(settings)).encode()).hexdigest()[:8]
    return folder / f"{settings.trials}x{settings.workers}-{key}.json"


def simulate(settings: ClusterSettings, folder: Path) -> dict[str, Any]:
    """The report of a simulation: the stored one, or that of a new run."""
    path = report_path(folder, settings)
    if not path.exists():
        # The run folders of the trials hold a config each, which nobody reads again: memory is fast enough.
        with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as scratch:
            cluster = Cluster(settings, Path(scratch) / "study", progress=sys.stderr)
            report = cluster.run()
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(report, indent=1))
    return dict(json.loads(path.read_text(encoding="utf-8")))


def main(words: Sequence[str] | None = None) -> None:
    """Simulate, and print the reports as JSON lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("settings", nargs="*", help="changes to the settings, such as workers=100")
    parser.add_argument("--scan", action="store_true", help="simulate 100 workers with shorter and shorter trials")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/sweep_scale"), help="folder of reports")
    parser.add_argument("--figures", type=Path, help="only draw the stored reports into this folder")
    given = parser.parse_args(words)
    if given.figures is not None:
        draw(given.out, given.figures)
        return
    for settings in SCAN if given.scan else [parse_settings(given.settings)]:
        report = simulate(settings, given.out)
        shown = {key: value for key, value in report.items() if key != "settings"}
        print(json.dumps(shown), flush=True)
        if any(report[name] for name in MUST_BE_NONE):
            sys.exit(1)


if __name__ == "__main__":
    main()
