"""`ptl-prefix train` on several devices, as a user meets it: processes on the CPU, however they were started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.command_lines import CommandLine, Invoke, run, start

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record

RANKS = ["trainer=ddp_cpu", "data.batch_size=2"]
LONG = ["trainer.max_steps=100000", "trainer.val_check_interval=20"]


@pytest.fixture
def words(command_line: CommandLine) -> list[str]:
    """A short run; two ranks take two rows each where one takes four."""
    return ["train", *command_line.small]


def curve(folder: Path) -> list[float]:
    return [event["train/loss"] for event in read_events(folder / "events.jsonl") if event["kind"] == "train"]


def folders_of_runs(work: Path) -> list[Path]:
    """Every folder that holds something."""
    return sorted({path.parent for path in work.rglob("*") if path.name in ("config.yaml", "events.jsonl")})


class TestWhatIsRefused:
    def test_more_gpus_than_there_are(self, words: list[str], invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: 3)

        result = invoke(*words, "trainer=ddp", "trainer.devices=4", "backbone.device=cuda", "hydra.run.dir=run")

        assert result.exit_code == 2
        assert "`trainer.devices` must be at most the 3 GPUs of this machine, but is 4." in result.stderr
        assert not Path("run").exists()

    def test_several_machines_that_nobody_started(self, words: list[str], invoke: Invoke) -> None:
        result = invoke(*words, *RANKS, "trainer.num_nodes=2")

        assert result.exit_code == 2
        assert "`trainer.num_nodes` must be 1 where ptl-prefix starts the processes itself" in result.stderr

    def test_another_number_of_processes_than_of_devices(
        self, words: list[str], invoke: Invoke, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}.items():
            monkeypatch.setenv(name, value)

        result = invoke(*words, *RANKS)

        assert result.exit_code == 2
        assert "must be the number of started processes, but is 2, and there are 3." in result.stderr

    def test_a_sweep_in_each_process(self, words: list[str], invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
            monkeypatch.setenv(name, value)

        result = invoke(*words, *RANKS, "-m", "seed=0,1")

        assert result.exit_code == 2
        assert "-m must be started without torchrun or srun" in result.stderr

    def test_a_folder_that_holds_a_run(self, words: list[str], invoke: Invoke) -> None:
        Path("run").mkdir()
        Path("run/config.yaml").write_text("seed: 0\n")

        result = invoke(*words, *RANKS, "hydra.run.dir=run")

        assert result.exit_code == 1
        assert "A new run must have a folder of its own" in result.stderr


def test_an_accelerator_says_where_the_backbone_goes(words: list[str], invoke: Invoke) -> None:
    words = [word for word in words if not word.startswith("backbone.device")]

    result = invoke(*words, "trainer=gpu", "dry_run=true")

    assert result.exit_code == 0, result.output
    assert "device: cuda" in result.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this file that are compared lie."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def alone(command_line: CommandLine, work: Path) -> RunFolder:
    """The run of one process with the larger batch."""
    process = run("train", *command_line.small, "hydra.run.dir=alone", cwd=work)
    assert process.returncode == 0, process.stderr
    return RunFolder(work / "alone")


@pytest.mark.slow
class TestHoweverTheyWereStarted:
    def assert_one_run_like(self, alone: RunFolder, work: Path) -> None:
        (folder,) = folders_of_runs(work)
        assert curve(folder) == pytest.approx(curve(alone.path), rel=1e-4)
        ours, theirs = (read_record(one.record) for one in (RunFolder(folder), alone))
        assert ours.metrics == pytest.approx(theirs.metrics, rel=1e-4)
        assert ours.status == "finished"
        assert ours.run_id == ours.config["run_id"] == folder.name

    def test_by_the_command_alone_with_the_backbone_divided_among_them(
        self, words: list[str], alone: RunFolder, tmp_path: Path
    ) -> None:
        process = run(*words, *RANKS, "trainer=fsdp", "trainer.accelerator=cpu", cwd=tmp_path)

        assert process.returncode == 0, process.stderr
        assert "ranks: 2; each sends" in process.stderr
        assert "each rank holds" in process.stderr
        assert process.stdout.count("val/loss") == 1, "one table"
        self.assert_one_run_like(alone, tmp_path)

    def test_by_torchrun(self, words: list[str], alone: RunFolder, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "ptl_prefix"]

        process = subprocess.run([*command, *words, *RANKS], cwd=tmp_path, capture_output=True, text=True, timeout=600)

        assert process.returncode == 0, process.stderr
        assert process.stdout.count("val/loss") == 1, "one table"
        self.assert_one_run_like(alone, tmp_path)

    def test_by_what_slurm_says(self, words: list[str], alone: RunFolder, tmp_path: Path) -> None:
        processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "ptl_prefix", *words, *RANKS],
                cwd=tmp_path,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **slurm(rank)},
            )
            for rank in range(2)
        ]
        errors = [process.communicate(timeout=600)[1] for process in processes]

        assert [process.returncode for process in processes] == [0, 0], errors
        assert errors[1] == ""
        self.assert_one_run_like(alone, tmp_path)


def slurm(rank: int) -> dict[str, str]:
    """What srun says to a process."""
    return {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "1",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "127.0.0.1",
    }


@pytest.mark.slow
def test_each_job_of_a_sweep_has_ranks_of_its_own(words: list[str], tmp_path: Path) -> None:
    process = run(*words, *RANKS, "-m", "optimizer.lr=1e-3,2e-3", "hydra.sweep.dir=both", cwd=tmp_path)

    assert process.returncode == 0, process.stderr
    study, *trials = folders_of_runs(tmp_path)
    assert (study, trials) == (tmp_path / "both", [tmp_path / "both/0", tmp_path / "both/1"])
    records = [read_record(folder / "record.json") for folder in trials]
    assert [record.config["optimizer"]["lr"] for record in records] == [1e-3, 2e-3]
    assert [record.status for record in records] == ["finished", "finished"]
    assert curve(tmp_path / "both/0") != curve(tmp_path / "both/1")


def ranks_of(parent: subprocess.Popen[str]) -> list[int]:
    """The processes that a process has started, in the order in which it did."""
    return [int(pid) for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]


def begun(words: list[str], work: Path) -> tuple[subprocess.Popen[str], RunFolder]:
    """A long run of two ranks, in the middle of its training."""
    process = start(*words, *RANKS, *LONG, "hydra.run.dir=run", cwd=work)
    folder = RunFolder(work / "run")
    wait_until(lambda: folder.last.exists(), process)
    return process, folder


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def gone(processes: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in processes)


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@linux
@pytest.mark.slow
def test_a_stop_of_the_command_is_heard_by_all_and_saved(words: list[str], tmp_path: Path) -> None:
    process, folder = begun(words, tmp_path)
    ranks = ranks_of(process)

    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=300)

    assert process.returncode == 143, error
    assert "SIGTERM: saving at the end of this step" in error
    assert f"ptl-prefix train resume={folder.path}" in error
    assert read_record(folder.record).status == "stopped"
    assert gone(ranks)


@linux
@pytest.mark.slow
def test_a_killed_rank_ends_the_run_which_goes_on_with_one_device(words: list[str], tmp_path: Path) -> None:
    process, folder = begun(words, tmp_path)
    ranks = ranks_of(process)
    began = time.monotonic()

    os.kill(ranks[0], signal.SIGKILL)
    _, error = process.communicate(timeout=300)

    assert time.monotonic() - began < 60
    assert process.returncode == 1
    assert "rank 0 was killed by SIGKILL" in error
    assert gone(ranks)
    assert read_record(folder.record).status == "failed"
    assert [event["kind"] for event in read_events(folder.events)][-2:] == ["error", "failed"]

    resumed = start("train", f"resume={folder.path}", "trainer.devices=1", cwd=tmp_path)
    wait_until(lambda: "resumed" in [event["kind"] for event in read_events(folder.events)], resumed)
    resumed.send_signal(signal.SIGTERM)
    _, error = resumed.communicate(timeout=300)
    assert resumed.returncode == 143, error
    (again,) = (event for event in read_events(folder.events) if event["kind"] == "resumed")
    assert again["num_ranks"] == 1


@linux
@pytest.mark.slow
def test_ranks_whose_starter_is_killed_save_and_stop(words: list[str], tmp_path: Path) -> None:
    process, folder = begun(words, tmp_path)
    ranks = ranks_of(process)

    process.kill()
    process.communicate(timeout=300)

    deadline = time.monotonic() + 60
    while not gone(ranks) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert gone(ranks)
    assert read_record(folder.record).status == "stopped"


@pytest.mark.slow
def test_a_rank_that_fails_is_shown_with_its_traceback(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAILING)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])}

    process: Any = subprocess.run(
        [sys.executable, "-m", "ptl_prefix", *words, *RANKS, "hydra.run.dir=run"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert process.returncode == 1
    assert "rank 1:\nTraceback" in process.stderr
    assert "ZeroDivisionError: only here" in process.stderr
    assert "rank 1 failed (its error is above)" in process.stderr
    assert read_record(tmp_path / "run/record.json").status == "failed"


FAILING = """
import os, sys, threading, time
from no_network import forbid_network

forbid_network()

def fail(*_):
    raise ZeroDivisionError("only here")

def break_training():
    while not hasattr(sys.modules.get("ptl_prefix.training.train"), "train"):
        time.sleep(0.01)
    sys.modules["ptl_prefix.training.module"].AdaptationModule.training_step = fail

if os.environ.get("RANK") == "1":
    threading.Thread(target=break_training, daemon=True).start()
"""
"""Makes one rank fail in its first training step."""
