"""The real trial server, as a process."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ptl_prefix.sweeping.server_calls import NoAnswerError
from ptl_prefix.sweeping.trial_processes import LOST, TrialServer

# The real server, without its heavy imports.
SMALL_SERVER = """
import os
import sys
from ptl_prefix.commands.sweep import call_process, trial_server

call_process._FUNCTIONS = "functions"

trial_server._IMPORTED = os.environ.get("IMPORTED", "json").split()
trial_server._load_backbone_once = lambda: print("loaded", file=sys.stderr, flush=True)
trial_server.main()
"""


FUNCTIONS = """
import os

def add(one, other):
    print("printed by a function")
    return [one + other, os.getpid()]

def fail():
    raise ValueError("this is the reason")

def die():
    os._exit(1)
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrialServer]:
    (tmp_path / "small_server.py").write_text(SMALL_SERVER)
    (tmp_path / "functions.py").write_text(FUNCTIONS)
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


def test_calls_are_answered_by_a_fork_of_the_server(server: TrialServer) -> None:
    answers = [server.call("add", {"one": number, "other": 0.5}) for number in range(3)]

    results = [answer.result(60.0) for answer in answers]

    assert [total for total, _ in results] == [0.5, 1.5, 2.5]
    assert server._process is not None
    (fork,) = {pid for _, pid in results}
    assert fork in [child.pid for child in psutil.Process(server._process.pid).children()]


@pytest.mark.parametrize("function", ["fail", "die", "absent"])
def test_a_call_that_fails_has_no_answer(server: TrialServer, function: str) -> None:
    with pytest.raises(NoAnswerError):
        server.call(function, {}).result(60.0)

    survives = function != "die"
    later = server.call("add", {"one": 1, "other": 1})
    if survives:
        assert later.result(60.0)[0] == 2
    else:
        with pytest.raises(NoAnswerError):
            later.result(60.0)


def test_the_death_of_the_server_is_noticed_though_its_fork_lives(server: TrialServer) -> None:
    _, fork = server.call("add", {"one": 1, "other": 1}).result(60.0)
    process = server._process
    assert process is not None and process.stdout is not None

    process.kill()

    assert has_come(lambda: process.stdout.closed), "the exit codes are read until nobody can write one"
    assert psutil.pid_exists(fork) and server.call("add", {"one": 2, "other": 2}).result(60.0)[0] == 4


def test_the_fork_ends_with_the_caller(server: TrialServer) -> None:
    _, fork = server.call("add", {"one": 1, "other": 1}).result(60.0)

    server.close()

    assert has_come(lambda: not psutil.pid_exists(fork) or psutil.Process(fork).status() == psutil.STATUS_ZOMBIE)


def has_come(is_so: Callable[[], bool]) -> bool:
    """Whether something becomes true within a time that no healthy process needs."""
    deadline = time.monotonic() + 30.0
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_so()
