"""A long study: the processes that run its trials hold no more open files after many trials than after a few."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.played_trials import record
from support.study_schedulers import RATES, make_scheduler, spec

from ptl_prefix.artifacts.run_record import write_record
from ptl_prefix.sweeping.samplers import RandomPoints
from ptl_prefix.sweeping.trial_processes import TrialServer
from ptl_prefix.sweeping.worker import Worker

# The real server, whose trials only copy a record.
SERVER = """
import os
import shutil
from ptl_prefix.commands.sweep import trial_server


def run_trial(folder, threads, device, *, lifeline, launcher):
    shutil.copy(os.environ["FINISHED_RECORD"], folder / "record.json")
    os._exit(0)


trial_server.run_trial = run_trial
trial_server.main()
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrialServer]:
    (tmp_path / "copying_server.py").write_text(SERVER)
    write_record(tmp_path / "record.json", replace(record(), status="finished", metrics={"val/loss": 1.0}))
    monkeypatch.setenv("FINISHED_RECORD", str(tmp_path / "record.json"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    server = TrialServer("copying_server", warm=False)
    yield server
    server.close()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_open_files_and_threads_do_not_grow_with_the_number_of_trials(server: TrialServer, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    scheduler = make_scheduler(folder, spec(n_trials=200, space=RATES), sampler=RandomPoints(seed=0))
    counts: list[dict[str, int]] = []

    def count(line: str) -> None:
        assert "val/loss 1" in line
        assert server._process is not None
        processes = {"worker": os.getpid(), "server": server._process.pid}
        counts.append(
            {
                f"{name} {kind}": len(os.listdir(f"/proc/{pid}/{kind}"))
                for name, pid in processes.items()
                for kind in ("fd", "task")
            }
        )

    Worker(scheduler, server, threads=1, device=None, notify=count).run()

    assert len(counts) == 200
    assert counts[199] == counts[19]
