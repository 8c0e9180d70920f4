"""Processes that are stopped or killed with real signals, and go on.

The moments at which a run can be cut are gone through one by one in `training/test_resuming.py`; here they are hit by
chance.
"""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.command_lines import CommandLine, run, start
from support.same_runs import assert_same_run

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record

pytestmark = pytest.mark.slow

SETTINGS = {
    "plain": [],
    "accumulation and prefix dropout": ["trainer.accumulate_grad_batches=2", "method.prefix_dropout=0.3"],
}
LONG = ["trainer.max_steps=120", "trainer.val_check_interval=10"]
"""Seconds of training, over many epochs of 16 batches, with a checkpoint several times a second."""


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a process does."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


def count(path: Path, what: bytes) -> int:
    return path.read_bytes().count(what) if path.exists() else 0


def written_at(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


@pytest.fixture(scope="module", params=SETTINGS)
def words(request: pytest.FixtureRequest, command_line: CommandLine) -> list[str]:
    return ["train", *command_line.small, *LONG, *SETTINGS[request.param], "hydra.run.dir=run"]


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same run, never interrupted."""
    work = tmp_path_factory.mktemp("whole")
    process = run(*words, cwd=work)
    assert process.returncode == 0, process.stderr
    return RunFolder(work / "run")


@pytest.fixture(scope="module")
def duration_s(whole: RunFolder) -> float:
    """From the first event to the last."""
    events = read_events(whole.events)
    return float(events[-1]["time_s"] - events[0]["time_s"])


@pytest.mark.parametrize("seed", range(3))
def test_a_process_killed_at_random_moments_ends_in_the_same_numbers(
    words: list[str], whole: RunFolder, duration_s: float, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    folder = RunFolder(tmp_path / "run")
    process = start(*words, cwd=tmp_path)
    for _ in range(2):
        before = written_at(folder.events)
        while process.poll() is None and written_at(folder.events) == before:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, duration_s))
        process.kill()
        process.communicate()
        process = start("train", f"resume={folder.path}", cwd=tmp_path)

    _, err = process.communicate(timeout=240)

    assert process.returncode == 0, err
    assert_same_run(folder, whole)


@pytest.mark.parametrize("number", [1, 4])
def test_a_process_killed_while_it_writes_a_checkpoint_ends_in_the_same_numbers(
    words: list[str], whole: RunFolder, tmp_path: Path, number: int
) -> None:
    folder = RunFolder(tmp_path / "run")
    process = start(*words, cwd=tmp_path)

    # A validation is logged just before its checkpoint is written.
    wait_until(lambda: count(folder.events, b'"kind": "validation"') >= number, process)
    process.kill()
    process.communicate()
    resumed = run("train", f"resume={folder.path}", cwd=tmp_path)

    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(folder, whole)
    assert not list(folder.checkpoints.glob(".*")), "nothing half-written is left"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_process_says_how_to_go_on_and_ends_in_the_same_numbers(
    words: list[str], whole: RunFolder, tmp_path: Path, number: signal.Signals
) -> None:
    folder = RunFolder(tmp_path / "run")
    process = start(*words, cwd=tmp_path)
    wait_until(lambda: count(folder.events, b'"kind": "train"') >= 13, process)

    process.send_signal(number)
    _, err = process.communicate(timeout=180)

    assert process.returncode == 128 + number
    assert f"ptl-prefix train resume={folder.path}" in err
    assert "Traceback" not in err
    record = read_record(folder.record)
    assert record.status == "stopped"
    assert torch.load(folder.last, weights_only=True)["global_step"] == record.cost.steps
    resumed = run("train", f"resume={folder.path}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(folder, whole)


def test_a_process_that_is_stopped_before_it_trains_can_go_on_too(
    words: list[str], whole: RunFolder, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    process = start(*words, cwd=tmp_path)
    wait_until(folder.events.exists, process)

    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=180)
    resumed = run("train", f"resume={folder.path}", cwd=tmp_path)

    assert process.returncode == 143, err
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(folder, whole)
