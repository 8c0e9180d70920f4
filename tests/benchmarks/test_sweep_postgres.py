"""The benchmark of studies on PostgreSQL, with a handful of trials on a server of its own."""

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks import sweep_postgres
from benchmarks.postgres_server import postgres_bin

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgres_bin() is None, reason="needs PostgreSQL's initdb and pg_ctl"),
    pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="needs psycopg: pip install .[postgres]"),
]


@pytest.mark.parametrize("at_once", [None, 11])
def test_every_step_of_every_trial_is_measured(tmp_path: Path, at_once: int | None) -> None:
    how = ["--workers", "3"] if at_once is None else ["--at-once", str(at_once)]

    sweep_postgres.main(["--trials", "13", *how, "--json", str(tmp_path / "report.json")])

    report = json.loads((tmp_path / "report.json").read_text())
    assert report["workers"] == (at_once or 3)
    for kind, calls in {"heartbeat": 13, "report": 26, "close": 13}.items():
        assert sum(part["calls"] for part in report[kind].values()) == calls
    parts = [part for kind in ("heartbeat", "report", "close") for part in report[kind].values()]
    assert all(part["ms"] > 0 for part in parts)
    assert all(("statements" in part) == (at_once is None) for part in parts), "threads are not told apart"
    if at_once is not None:
        assert sum(part["calls"] for part in report["first job"].values()) >= 11


def test_a_worker_that_fails_fails_the_measurement(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a worker failed"):
        sweep_postgres.work_at_once(
            f"postgresql://me@/nothing?host={tmp_path}&connect_timeout=5",
            tmp_path,
            sweep_postgres.ClusterSettings(trials=2, workers=1),
            0.0,
        )
