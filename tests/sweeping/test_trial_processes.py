"""The real trial server, as a process."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ptl_prefix.sweeping.trial_processes import LOST, TrialServer

# The real server, without its heavy imports.
SMALL_SERVER = """
import os
import sys
from ptl_prefix.commands.sweep import trial_server

trial_server._IMPORTED = os.environ.get("IMPORTED", "json").split()
trial_server._load_backbone_once = lambda: print("loaded", file=sys.stderr, flush=True)
trial_server.main()
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrialServer]:
    (tmp_path / "small_server.py").write_text(SMALL_SERVER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    server = TrialServer("small_server", warm=True)
    yield server
    server.close()


def wait_for(text: str, path: Path) -> str:
    for _ in range(200):
        if path.exists() and text in path.read_text():
            break
        time.sleep(0.05)
    return path.read_text()


def test_the_log_has_what_was_printed_before_its_path_was_known(server: TrialServer, tmp_path: Path) -> None:
    server.prepare()
    server.log_to(tmp_path / "study/server.log")

    assert wait_for("loaded", tmp_path / "study/server.log").count("loaded") == 1


@pytest.mark.slow
def test_a_prepared_server_starts_the_trials(server: TrialServer, tmp_path: Path) -> None:
    server.prepare()
    first = server._process
    folder = tmp_path / "trial"
    folder.mkdir()

    running = server.start(folder, threads=1, device=None)

    code = running.wait(60.0)
    assert server._process is first
    assert code == 1
    assert "config.yaml" in (folder / "log.txt").read_text(), "a folder without a config cannot be trained"


def test_an_unused_server_ends_at_once_even_while_it_imports(
    server: TrialServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "takes_long.py").write_text("import time\n\ntime.sleep(60)\n")
    monkeypatch.setenv("IMPORTED", "takes_long")
    server.prepare()
    process = server._process
    assert process is not None

    server.close()

    assert process.returncode == -signal.SIGKILL
    server.close()  # closing twice does nothing


@pytest.mark.slow
def test_a_trial_after_the_death_of_a_server_gets_a_new_server(server: TrialServer, tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    server.prepare()
    assert server._process is not None
    server._process.kill()
    server._process.wait()

    running = server.start(tmp_path / "trial", threads=1, device=None)

    assert running.wait(60.0) not in (None, LOST)
