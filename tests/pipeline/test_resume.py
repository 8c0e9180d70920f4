"""Runs that are stopped or killed as processes, and go on.

The moments at which a run can be cut are gone through one by one in `training/test_resuming.py`; here they are hit by
chance, with real signals.
"""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import CommandLine, Finished, Invoke, run, start

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.training.module import AdaptationModule

SETTINGS = {
    "plain": [],
    "accumulation and prefix dropout": ["trainer.accumulate_grad_batches=2", "method.prefix_dropout=0.3"],
}
LONG = ["trainer.max_steps=120", "trainer.val_check_interval=10"]
"""Seconds of training, over many epochs of 16 batches, with a checkpoint several times a second."""


def told(folder: RunFolder) -> list[dict[str, Any]]:
    """What a run did, in its log; neither when it did it nor how it was interrupted."""
    left_out = ("resumed", "stopped", "error")
    return [
        {key: value for key, value in event.items() if key not in ("time_s", "tokens_per_s")}
        for event in read_events(folder.events)
        if event["kind"] not in left_out
    ]


def assert_same_run(folder: RunFolder, whole: RunFolder) -> None:
    for name in ("last", "best"):
        ours, theirs = (torch.load(getattr(one, name), weights_only=True)["state_dict"] for one in (folder, whole))
        assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())
    ours, theirs = (read_record(one.record) for one in (folder, whole))
    assert ours.status == theirs.status == "finished"
    assert ours.metrics == theirs.metrics
    assert (ours.cost.steps, ours.cost.tokens) == (theirs.cost.steps, theirs.cost.tokens)
    assert told(folder) == told(whole)
    assert read_bundle(folder.bundle).manifest.tensors_sha256 == read_bundle(whole.bundle).manifest.tensors_sha256


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a process does."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


class TestWordsAndExitCodes:
    """In this process: the signal comes in the fifth training step."""

    @pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
    def number(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> signal.Signals:
        usual = AdaptationModule.training_step
        number: signal.Signals = request.param

        def step(module: AdaptationModule, batch: ModelInputs, batch_idx: int) -> torch.Tensor:
            if module.global_step == 4:
                signal.raise_signal(number)
            return usual(module, batch, batch_idx)

        monkeypatch.setattr(AdaptationModule, "training_step", step)
        return number

    def test_a_stopped_run_says_how_to_go_on_and_goes_on(
        self, command_line: CommandLine, invoke: Invoke, number: signal.Signals
    ) -> None:
        stopped = invoke("train", *command_line.small, "hydra.run.dir=run")
        status = read_record("run/record.json").status
        resumed = invoke("train", "resume=run")

        assert stopped.exit_code == 128 + number
        assert "Stopped at step 5." in stopped.stderr
        assert f"ptl-prefix train resume={Path('run').absolute()}" in stopped.stderr
        assert status == "stopped"
        assert resumed.exit_code == 0, resumed.output
        assert read_record("run/record.json").status == "finished"
        assert "val/loss" in resumed.stdout, "the table is shown"


def test_a_finished_run_says_so(finished: Finished, invoke: Invoke) -> None:
    before = finished.folder.record.read_bytes()

    result = invoke("train", f"resume={finished.folder.path}")

    assert result.exit_code == 0
    assert "This run has finished, after 6 steps; nothing is left to do" in " ".join(result.stderr.split())
    assert finished.folder.record.read_bytes() == before


def test_a_run_goes_on_with_its_own_config_alone(finished: Finished, invoke: Invoke) -> None:
    result = invoke("train", f"resume={finished.folder.path}", "optimizer.lr=1", "seed=2")

    assert result.exit_code == 2
    assert (
        "`resume` must be given alone, as the run has its config, but there is also optimizer.lr, seed."
        in result.stderr
    )


def test_where_there_is_no_run_nothing_goes_on(invoke: Invoke) -> None:
    result = invoke("train", "resume=nowhere")

    assert result.exit_code == 2
    assert "A run must be a folder with the config it was started with, but nowhere is no folder" in result.stderr


def test_a_run_that_failed_fails_again_at_the_same_step(command_line: CommandLine, invoke: Invoke) -> None:
    words = ("optimizer.lr=1e30", "optimizer.warmup_steps=0", "trainer.val_check_interval=1", "hydra.run.dir=run")
    failures = [invoke("train", *command_line.small, *words), invoke("train", "resume=run")]

    assert [failure.exit_code for failure in failures] == [1, 1]
    sentences = [failure.stderr.splitlines()[-1] for failure in failures]
    assert sentences[0] == sentences[1]
    assert "finite" in sentences[0]


@pytest.mark.slow
class TestProcesses:
    @pytest.fixture(scope="class", params=SETTINGS)
    def words(self, request: pytest.FixtureRequest, command_line: CommandLine) -> list[str]:
        return ["train", *command_line.small, *LONG, *SETTINGS[request.param], "hydra.run.dir=run"]

    @pytest.fixture(scope="class")
    def whole(self, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
        """The same run, never interrupted."""
        work = tmp_path_factory.mktemp("whole")
        process = run(*words, cwd=work)
        assert process.returncode == 0, process.stderr
        return RunFolder(work / "run")

    @pytest.fixture(scope="class")
    def duration_s(self, whole: RunFolder) -> float:
        """From the first event to the last."""
        events = read_events(whole.events)
        return float(events[-1]["time_s"] - events[0]["time_s"])

    @pytest.mark.parametrize("seed", range(4))
    def test_a_process_killed_at_random_moments_ends_in_the_same_numbers(
        self, words: list[str], whole: RunFolder, duration_s: float, tmp_path: Path, seed: int
    ) -> None:
        chance = random.Random(seed)
        folder = RunFolder(tmp_path / "run")
        process = start(*words, cwd=tmp_path)
        for _ in range(2):
            wait_until(folder.config.exists, process)
            time.sleep(chance.uniform(0, duration_s))
            process.kill()
            process.communicate()
            process = start("train", f"resume={folder.path}", cwd=tmp_path)

        _, err = process.communicate(timeout=240)

        assert process.returncode == 0, err
        assert_same_run(folder, whole)

    @pytest.mark.parametrize("number", [1, 4])
    def test_a_process_killed_while_it_writes_a_checkpoint_ends_in_the_same_numbers(
        self, words: list[str], whole: RunFolder, tmp_path: Path, number: int
    ) -> None:
        folder = RunFolder(tmp_path / "run")
        process = start(*words, cwd=tmp_path)

        def is_written() -> bool:
            started = any(folder.checkpoints.glob(".*.tmp"))
            validations = (
                folder.events.exists() and folder.events.read_bytes().count(b'"validation", "step": ') >= number
            )
            return started and validations

        wait_until(is_written, process)
        process.kill()
        process.communicate()
        resumed = run("train", f"resume={folder.path}", cwd=tmp_path)

        assert resumed.returncode == 0, resumed.stderr
        assert_same_run(folder, whole)
        assert not list(folder.checkpoints.glob(".*")), "nothing half-written is left"

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_stopped_process_says_how_to_go_on_and_ends_in_the_same_numbers(
        self, words: list[str], whole: RunFolder, tmp_path: Path, number: signal.Signals
    ) -> None:
        folder = RunFolder(tmp_path / "run")
        process = start(*words, cwd=tmp_path)
        wait_until(lambda: folder.events.exists() and folder.events.read_bytes().count(b'"train", ') >= 13, process)

        process.send_signal(number)
        _, err = process.communicate(timeout=60)

        assert process.returncode == 128 + number
        assert f"ptl-prefix train resume={folder.path}" in err
        assert "Traceback" not in err
        record = json.loads(folder.record.read_text())
        assert record["status"] == "stopped"
        assert torch.load(folder.last, weights_only=True)["global_step"] == record["cost"]["steps"]
        resumed = run("train", f"resume={folder.path}", cwd=tmp_path)
        assert resumed.returncode == 0, resumed.stderr
        assert_same_run(folder, whole)

    def test_a_process_that_is_stopped_before_it_trains_can_go_on_too(
        self, words: list[str], whole: RunFolder, tmp_path: Path
    ) -> None:
        folder = RunFolder(tmp_path / "run")
        process = start(*words, cwd=tmp_path)
        wait_until(folder.events.exists, process)

        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        resumed = run("train", f"resume={folder.path}", cwd=tmp_path)

        assert process.returncode == 143, err
        assert resumed.returncode == 0, resumed.stderr
        assert_same_run(folder, whole)
