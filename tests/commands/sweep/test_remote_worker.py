"""What an executor starts on another machine, called as the executor calls it."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.played_trials import PlayedServer, validates
from support.study_schedulers import spec

from ptl_prefix.commands.sweep import remote_worker, start_workers, study_folder
from ptl_prefix.commands.sweep.remote_worker import WORKING_DIR_VARIABLE, RemoteWorker
from ptl_prefix.commands.sweep.study_folder import Study
from ptl_prefix.sweeping.search_space import Choice, SearchSpace


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of two trials, whose configs are not composed and whose trials are played."""
    study = spec(
        space=SearchSpace({"seed": Choice(values=[1, 2], texts=["1", "2"])}),
        n_trials=2,
        sampler={"_target_": "ptl_prefix.sweeping.samplers.Exhaustive", "seed": 0},
        pruner={"_target_": "ptl_prefix.sweeping.pruners.NoPruner"},
    )
    folder = tmp_path / "study"
    (folder / "configs").mkdir(parents=True)
    config = {"trainer": {"max_steps": 90}, "tracking": {"group": None}}
    (folder / "configs/first.yaml").write_text(yaml.safe_dump(config))
    (folder / "where.yaml").write_text("storage: null\n")
    study.write(folder)
    monkeypatch.setattr(
        study_folder, "_composer", lambda *_: lambda overrides: {**config, "overrides": list(overrides)}
    )
    monkeypatch.chdir(tmp_path)
    return folder


def played(monkeypatch: pytest.MonkeyPatch, *losses: float) -> None:
    class Server(PlayedServer):
        warm = True

        def __init__(self, module: str, **_: Any) -> None:
            super().__init__(validates(*losses))

        def log_to(self, path: Path) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr(study_folder, "TrialServer", Server)


def test_it_runs_trials_until_the_study_is_done_and_hands_over_its_lines(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played(monkeypatch, 2.0, 1.0)
    worker = RemoteWorker(str(folder), str(tmp_path), None, threads=1)

    error = worker.run()

    lines = list(worker.next_lines())
    assert error is None
    assert [line.partition(": ")[2] for line in lines] == ["seed=1: val/loss 1", "seed=2: val/loss 1"]
    assert [trial.state for trial in study_folder.open_study(folder).scheduler().trials("")] == ["finished"] * 2


def test_a_running_trial_is_stopped_on_request(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played(monkeypatch, *[1.0] * 100_000)
    worker = RemoteWorker(str(folder), str(tmp_path), None, threads=1)
    ends: list[str | None] = []
    thread = threading.Thread(target=lambda: ends.append(worker.run()))
    thread.start()
    while not (folder / "0/events.jsonl").exists():
        time.sleep(0.01)

    worker.stop(now=True)

    thread.join(60)
    assert ends == [None]
    assert [trial.state for trial in study_folder.open_study(folder).scheduler().trials("")] == ["interrupted"]
    assert len(worker.next_lines()) == 1, "one that has ended does not wait for lines"


@pytest.mark.parametrize("lacks", ["folder", "working directory"])
def test_a_machine_that_does_not_see_the_study_says_so(folder: Path, tmp_path: Path, lacks: str) -> None:
    working_dir = tmp_path / "nothing" if lacks == "working directory" else tmp_path
    worker = RemoteWorker(str(tmp_path / "nothing" if lacks == "folder" else folder), str(working_dir), None, threads=1)

    error = worker.run()

    assert error is not None
    assert f"{tmp_path}/nothing" in error and "(on the machine " in error


def test_a_machine_uses_the_working_directory_that_its_environment_names(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played(monkeypatch, 1.0)
    monkeypatch.setenv(WORKING_DIR_VARIABLE, str(tmp_path))

    assert RemoteWorker("/elsewhere/study", "/elsewhere", None, threads=1).run() is None

    assert [trial.state for trial in study_folder.open_study(folder).scheduler().trials("")] == ["finished"] * 2


def test_a_machine_that_does_not_see_the_study_makes_a_folder_of_its_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played(monkeypatch, 1.0)
    fetched: list[tuple[Path, str | None]] = []

    def folder_of_worker(path: Path, address: str | None) -> Path:
        fetched.append((path, address))
        return folder

    monkeypatch.setattr(remote_worker, "folder_of_worker", folder_of_worker)
    monkeypatch.setenv(WORKING_DIR_VARIABLE, str(tmp_path / "own"))

    assert RemoteWorker("/elsewhere/outputs/study", "/elsewhere", "s3://runs/a", threads=1).run() is None

    assert fetched == [(tmp_path / "own/outputs/study", "s3://runs/a")]
    assert Path.cwd() == tmp_path / "own"


def test_a_working_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    error = RemoteWorker("/nothing", str(tmp_path / "file/work"), "s3://runs/a", threads=1).run()

    assert error is not None
    assert f"but {tmp_path}/file/work does not (Not a directory)" in error
    assert f"${WORKING_DIR_VARIABLE}" in error


def test_a_study_asks_ray_for_what_it_sets_for_each_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def executor(worker_class: type, arguments: dict[str, Any], **options: Any) -> None:
        asked.update(options, worker_class=worker_class, threads=arguments["threads"])

    asked: dict[str, Any] = {}
    monkeypatch.setattr(start_workers, "RayExecutor", executor)
    study = Study(tmp_path, spec(ray_address="head:6379", num_cpus=3.0, num_gpus=0.5, n_jobs=2), None)
    nothing: Any = None

    pool = start_workers.make_worker_pool(study, nothing, print, executor="ray", server=nothing)

    assert pool.num_workers == 2
    assert asked == {
        "worker_class": RemoteWorker,
        "threads": 3,
        "address": "head:6379",
        "num_cpus": 3.0,
        "num_gpus": 0.5,
        "notify": print,
    }
