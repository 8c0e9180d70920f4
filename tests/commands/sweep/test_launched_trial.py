"""Trials whose processes a launcher starts, with a shell script in place of srun, through the real trial server."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ptl_prefix.commands.sweep.trial_server import SERVER_MODULE
from ptl_prefix.sweeping.trial_processes import TrialServer

LAUNCHER = """#!/bin/bash
trap 'echo saved >> {told}; exit 143' TERM
echo "$OMP_NUM_THREADS $$ $@" >> {told}
[ "$1" = --ends-with ] && exit "$2"
[ "$1" = --killed ] && kill -KILL $$
for ((i = 0; i < 2400; i++)); do sleep 0.05; done
"""


class Launched:
    """A trial whose launcher writes to a file what it was told."""

    def __init__(self, tmp_path: Path, *options: str) -> None:
        self.told_file, script = tmp_path / "told", tmp_path / "launcher"
        script.write_text(LAUNCHER.format(told=self.told_file))
        script.chmod(0o755)
        self.folder = tmp_path / "my study"
        self.folder.mkdir()
        self.server = TrialServer(SERVER_MODULE, warm=False, launcher=[str(script), *options])
        self.trial = self.server.start(self.folder, threads=3, device=None)

    def told(self, count: int) -> list[str]:
        """What it was told, as soon as that is so much."""
        deadline = time.monotonic() + 120
        while not self.told_file.exists() or len(self.told_file.read_text().splitlines()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self.told_file.read_text().splitlines()


@pytest.fixture
def launched(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Launched]:
    launched = Launched(tmp_path, *getattr(request, "param", ()))
    yield launched
    launched.server.close()


def test_sigterm_is_passed_on_and_the_exit_code_returned(launched: Launched) -> None:
    (command,) = launched.told(1)

    launched.trial.signal("SIGTERM")

    assert launched.trial.wait(60.0) == 143
    assert command.startswith("3 ") and command.endswith(f"-m ptl_prefix train resume={launched.folder}")
    assert launched.told(2)[1] == "saved"


def test_the_launcher_is_stopped_when_the_process_above_it_is_killed(launched: Launched) -> None:
    (command,) = launched.told(1)
    launcher = psutil.Process(int(command.split()[1]))

    os.kill(launcher.ppid(), signal.SIGKILL)

    assert launched.told(2)[1] == "saved"
    assert launched.trial.wait(60.0) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("launched", "code"), [(["--ends-with", "3"], 3), (["--killed"], -signal.SIGKILL)], indirect=["launched"]
)
def test_the_end_of_the_launcher_is_that_of_the_trial(launched: Launched, code: int) -> None:
    assert launched.trial.wait(60.0) == code


def test_a_launcher_that_is_no_program_fails_the_trial_with_a_sentence(tmp_path: Path) -> None:
    server = TrialServer(SERVER_MODULE, warm=False, launcher=["no-such-program"])
    try:
        assert server.start(tmp_path, threads=1, device=None).wait(60.0) == 1
    finally:
        server.close()
    assert "must be a program, but 'no-such-program' is not" in (tmp_path / "log.txt").read_text()
