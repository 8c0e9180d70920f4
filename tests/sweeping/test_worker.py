"""A worker with a trial server whose trials are played by functions."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.played_trials import Play, PlayedProcess, PlayedServer, record, validates, work
from support.study_schedulers import compose, make_scheduler, spec

from ptl_prefix.artifacts.event_log import EventLog
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.fetch import fetch_folder, fetch_to_continue
from ptl_prefix.artifacts.remote.mirror_run import mirror_run
from ptl_prefix.artifacts.remote.mirror_state import read_mirror_state, write_mirror_state
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record, write_record
from ptl_prefix.sweeping.pruners import Percentile, SuccessiveHalving
from ptl_prefix.sweeping.trial_processes import LOST
from ptl_prefix.sweeping.worker import Worker


def ends(code: int, *, status: str | None = None, error: str | None = None, loss: float = 1.5) -> Play:
    """A trial that ends with this exit code, status and error."""

    def play(folder: RunFolder, process: PlayedProcess) -> int:
        with EventLog(folder.events) as log:
            if error is not None:
                log.write("error", step=3, error=error)
        if status is not None:
            metrics = {"val/loss": loss} if status == "finished" else {}
            write_record(folder.record, replace(record(), status=status, metrics=metrics))
        return code

    return play


@pytest.mark.parametrize(
    ("play", "state", "failure"),
    [
        (ends(0, status="finished"), "finished", None),
        (ends(1, status="failed", error="NonFiniteLossError: nan"), "failed", "non-finite loss"),
        (ends(1, status="failed", error="OutOfMemoryError: CUDA out of memory"), "failed", "out of memory"),
        (ends(1, status="failed", error="MemoryError: "), "failed", "out of memory"),
        (ends(1, status="failed", error="KeyError: 'x'"), "failed", "crash"),
        (ends(1), "failed", "crash"),
        (ends(2), "failed", "config"),
        (ends(-9), "failed", "killed"),
        (ends(143, status="stopped"), "failed", "killed"),
    ],
)
def test_the_end_of_a_process_decides_the_state_of_its_trial(
    tmp_path: Path, play: Play, state: str, failure: str | None
) -> None:
    scheduler = make_scheduler(tmp_path, spec(n_trials=1, max_failure_rate=0.0))

    lines = work(scheduler, play)

    trial = scheduler.trials("")[0]
    assert (trial.state, trial.notes.get("failure")) == (state, failure)
    assert ("failed" in lines[-1]) == (failure not in (None, "killed"))


def test_a_dead_trial_server_does_not_count_as_a_killed_trial(tmp_path: Path) -> None:
    scheduler = make_scheduler(tmp_path, spec(n_trials=1))
    codes = iter([LOST] * 5)

    def play(folder: RunFolder, process: PlayedProcess) -> int:
        code = next(codes, 0)
        return ends(code, status="finished" if code == 0 else None)(folder, process)

    work(scheduler, play)

    assert [trial.state for trial in scheduler.trials("")] == ["finished"]


def test_a_record_without_the_objective_is_a_failure_that_lists_its_metrics(tmp_path: Path) -> None:
    scheduler = make_scheduler(tmp_path, spec(n_trials=1, objective="test/bleu", max_failure_rate=0.0))

    work(scheduler, ends(0, status="finished"))

    trial = scheduler.trials("")[0]
    assert trial.notes["failure"] == "no objective"
    assert trial.notes["error"] == "the record has no test/bleu, only val/loss"


def test_every_validation_and_the_cost_of_a_trial_are_stored(tmp_path: Path) -> None:
    scheduler = make_scheduler(tmp_path, spec(n_trials=1))

    work(scheduler, validates(3.0, 2.0, 1.0))

    trial = scheduler.trials("")[0]
    assert trial.intermediate_values == {10: 3.0, 20: 2.0, 30: 1.0}
    assert trial.value == 1.0
    assert trial.notes["parameters_trained"] == record().parameters.trained and trial.train_s > 0


def test_a_pruned_trial_has_the_status_pruned_in_its_record(tmp_path: Path) -> None:
    pruner = Percentile(percentile=50.0, n_startup_trials=1, n_warmup_steps=0)
    scheduler = make_scheduler(tmp_path, spec(n_trials=2), pruner=pruner)
    plays = iter([validates(1.0, 0.5), validates(5.0, 4.0, 3.0)])
    of_folder: dict[Path, Play] = {}

    def play(folder: RunFolder, process: PlayedProcess) -> int:
        if folder.path not in of_folder:
            of_folder[folder.path] = next(plays)
        return of_folder[folder.path](folder, process)

    work(scheduler, play)

    trials = scheduler.trials("")
    assert [trial.state for trial in trials] == ["finished", "pruned"]
    assert trials[1].intermediate_values == {10: 5.0}
    assert read_record(tmp_path / "1/record.json").status == "pruned"


def test_the_best_trials_pass_a_rung_and_finish_and_the_others_pause(tmp_path: Path) -> None:
    scheduler = make_scheduler(tmp_path, spec(n_trials=4), pruner=SuccessiveHalving(min_steps=10, reduction_factor=2))

    def play(folder: RunFolder, process: PlayedProcess) -> int:
        return validates(*[1.0 + int(folder.path.name)] * 9)(folder, process)

    work(scheduler, play)

    trials = scheduler.trials("")
    assert trials[0].state == "finished" and trials[3].state == "pruned"
    assert all(10 in trial.rungs for trial in trials)
    assert max(trials[3].intermediate_values) < 90


def test_a_worker_that_is_stopped_now_leaves_an_interrupted_trial(tmp_path: Path) -> None:
    scheduler = make_scheduler(tmp_path, spec())
    workers: list[Worker] = []

    def play(folder: RunFolder, process: PlayedProcess) -> int:
        workers[0].stopping.set()
        workers[0].stopping_now.set()
        return validates(*[1.0] * 50)(folder, process)

    workers.append(Worker(scheduler, PlayedServer(play), threads=1, device=None, notify=lambda _: None))  # type: ignore[arg-type]
    workers[0].run()

    assert [trial.state for trial in scheduler.trials("")] == ["interrupted"]


def mirrored_trial(tmp_path: Path, ends_as: Play) -> tuple[list[str], RemoteAddress, RunFolder]:
    """Run a trial whose mirror another process has taken over meanwhile, so that it is behind."""
    names = {key: {"name": key, "_target_": key} for key in ("task", "backbone", "method")}

    def compose_mirrored(overrides: Sequence[str]) -> dict[str, Any]:
        return {**compose(overrides), **names, "outputs_url": f"file://{tmp_path}/outputs"}

    scheduler = make_scheduler(tmp_path / "study", spec(n_trials=1), compose=compose_mirrored)

    def play(folder: RunFolder, process: PlayedProcess) -> int:
        mirror_run(folder)
        late = RunFolder(tmp_path / "late")
        fetch_to_continue(address_of(folder), late, replaces=False)
        state = read_mirror_state(folder.path)
        assert state is not None
        write_mirror_state(folder.path, replace(state, behind="another one has taken over"))
        return ends_as(folder, process)

    lines = work(scheduler, play)
    folder = RunFolder(tmp_path / "study/0")
    return lines, address_of(folder), folder


def address_of(folder: RunFolder) -> RemoteAddress:
    state = read_mirror_state(folder.path)
    assert state is not None
    return RemoteAddress.parse(state.address)


def test_the_result_that_a_study_has_recorded_is_mirrored_though_another_process_took_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    lines, address, folder = mirrored_trial(tmp_path, ends(0, status="finished"))

    assert len(lines) == 1, lines
    mirrored = fetch_folder(address)
    assert (mirrored / "record.json").read_bytes() == folder.record.read_bytes()
    state = read_mirror_state(folder.path)
    assert state is not None and state.behind is None
