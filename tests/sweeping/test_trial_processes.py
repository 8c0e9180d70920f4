"""The real host, as a process."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptl_prefix.sweeping import trial_processes as host_module
from ptl_prefix.sweeping.trial_processes import LOST, TrialServer

# It speaks as the real one does, and imports nothing heavy.
SMALL = """
import os
import sys
from ptl_prefix.commands.sweep.command import trial_server

trial_host._IMPORTED = os.environ.get("IMPORTED", "json").split()
trial_host._rehearse = lambda: print("rehearsed", file=sys.stderr, flush=True)
trial_host.main()
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrialServer]:
    (tmp_path / "small_host.py").write_text(SMALL)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(host_module, "TRIAL_SERVER_MODULE", "small_host")
    host = TrialServer(warm=True)
    yield host
    host.close()


def wait_for(text: str, path: Path) -> str:
    for _ in range(200):
        if path.exists() and text in path.read_text():
            break
        time.sleep(0.05)
    return path.read_text()


def test_what_was_printed_before_the_log_had_a_place_is_in_it(host: TrialServer, tmp_path: Path) -> None:
    host.prepare()
    host.keep_log(tmp_path / "study/host.log")

    assert wait_for("rehearsed", tmp_path / "study/host.log").count("rehearsed") == 1


@pytest.mark.slow
def test_a_prepared_host_starts_the_trials(host: TrialServer, tmp_path: Path) -> None:
    host.prepare()
    first = host._process
    folder = tmp_path / "trial"
    folder.mkdir()

    running = host.start(folder, threads=1, device=None)

    code = running.wait(60.0)
    assert host._process is first
    assert code == 1
    assert "config.yaml" in (folder / "log.txt").read_text(), "a folder without a config is no run"


def test_a_host_that_is_not_needed_ends_at_once_also_in_its_imports(
    host: TrialServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "takes_long.py").write_text("import time\n\ntime.sleep(60)\n")
    monkeypatch.setenv("IMPORTED", "takes_long")
    host.prepare()
    process = host._process
    assert process is not None

    host.close()

    assert process.returncode == -signal.SIGKILL
    host.close()  # a second time is nothing


@pytest.mark.slow
def test_trials_of_a_host_that_dies_are_lost_and_the_next_has_a_host_again(host: TrialServer, tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    host.prepare()
    assert host._process is not None
    host._process.kill()
    host._process.wait()

    running = host.start(tmp_path / "trial", threads=1, device=None)

    assert running.wait(60.0) not in (None, LOST)
