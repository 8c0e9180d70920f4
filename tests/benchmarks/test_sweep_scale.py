"""The simulated cluster: no trial is lost or runs twice, and a scheduler that is broken on purpose is noticed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import UpdateFinishedTrialError

from benchmarks.sweep_scale import __main__ as program
from benchmarks.sweep_scale import figures
from benchmarks.sweep_scale import worker as simulated_worker
from benchmarks.sweep_scale.cluster import Cluster
from benchmarks.sweep_scale.ledger import MUST_BE_NONE, Ledger
from benchmarks.sweep_scale.settings import ClusterSettings
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.sweeping.job import Job
from ptl_prefix.sweeping.liveness import Liveness
from ptl_prefix.sweeping.trial import State, Trial
from ptl_prefix.sweeping.trial_store import TrialStore

ROUGH: dict[str, Any] = {
    "trials": 200,
    "workers": 20,
    "workers_per_node": 4,
    "step_s": 1.0,
    "worker_lives_s": 1200.0,
    "trial_lives_s": 3 * 3600.0,
    "node_lives_s": 3600.0,
    "preempted_every_s": 1800.0,
    "cut_off_every_s": 900.0,
    "outage_every_s": 900.0,
    "dies_deciding": 0.02,
}


def simulated(folder: Path, **changes: Any) -> dict[str, Any]:
    return Cluster(ClusterSettings(**{**ROUGH, **changes}), folder / "study").run()


@pytest.mark.parametrize("changes", [{}, {"pruner": "median", "seed": 1}, {"pruner": "none", "seed": 2, "trials": 60}])
def test_every_trial_of_a_rough_cluster_ends_once(tmp_path: Path, changes: dict[str, Any]) -> None:
    report = simulated(tmp_path, **changes)

    assert {name: report[name] for name in MUST_BE_NONE} == dict.fromkeys(MUST_BE_NONE, 0)
    assert sum(report["states"].get(state, 0) for state in ("finished", "pruned")) == report["settings"]["trials"]
    happened = report["counts"]
    for kind in ("workers died", "preemptions", "outages", "stopped by the guard", "handed out: interrupted"):
        assert happened[kind] > 0, f"the simulation must contain this: {kind}"


def test_a_simulation_follows_from_its_seed(tmp_path: Path) -> None:
    reports = [simulated(tmp_path / name, trials=40) for name in ("a", "b")]

    for report in reports:
        for field in ("cpu_ms", "cpu_s", "peak_mb"):
            del report[field]
    assert json.dumps(reports[0]) == json.dumps(reports[1])


def everybody_is_dead(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Liveness, "is_alive", lambda *_: False)


def no_guard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(simulated_worker, "STOP_S", 1e9)


def simulated_for(seconds: float, folder: Path, patch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    """The report after some seconds of a simulation that may never end."""
    cluster = Cluster(ClusterSettings(**{**ROUGH, **changes}), folder / "study")
    run = cluster.events.run
    patch.setattr(cluster.events, "run", lambda is_over: run(lambda: is_over() or cluster.events.now > seconds))
    return cluster.run()


@pytest.mark.parametrize("breaks", [everybody_is_dead, no_guard])
def test_a_trial_that_runs_in_two_places_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: Callable[[pytest.MonkeyPatch], None]
) -> None:
    breaks(monkeypatch)

    report = simulated_for(1800.0, tmp_path, monkeypatch, trials=100)

    assert report["run in two places"] > 0


def test_without_leases_the_results_of_two_workers_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_guard(monkeypatch)
    monkeypatch.setattr(TrialStore, "has_lease", lambda *_: True)

    with pytest.raises((UpdateFinishedTrialError, ValueError), match=r"finished|COMPLETE|tell"):
        simulated_for(7200.0, tmp_path, monkeypatch)


def test_trials_of_dead_workers_that_count_as_alive_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Liveness, "is_alive", lambda _, owner, beat=None: owner is not None)

    report = simulated_for(4 * 3600.0, tmp_path, monkeypatch, trials=40)

    assert report["lost"] > 0


def trial(number: int, state: State, point: str) -> Trial:
    notes = {"overrides": [point]}
    values: dict[str, Any] = {"params": {}, "intermediate_values": {}, "value": None, "notes": notes}
    return Trial(arm="", number=number, trial_id=number, state=state, **values)


def test_a_ledger_counts_trials_that_go_on_after_their_end_and_points_that_are_tried_twice(tmp_path: Path) -> None:
    trials = [trial(0, "finished", "a"), trial(1, "finished", "b"), trial(2, "finished", "b")]
    ledger = Ledger()
    ledger.closed(0, "finished", is_recorded=True)
    ledger.closed(1, "interrupted", is_recorded=True)
    ledger.closed(1, "finished", is_recorded=False)
    ledger.handed_out(Job(trials[1], RunFolder(tmp_path), 10, "interrupted"))
    ledger.closed(1, "finished", is_recorded=True)
    ledger.closed(2, "finished", is_recorded=True)

    right = ledger.facts([*trials[:2], trial(3, "discarded", "b")], num_planned=2)
    ledger.handed_out(Job(trials[0], RunFolder(tmp_path), 10, "interrupted"))
    ledger.closed(0, "failed", is_recorded=True)
    wrong = ledger.facts(trials, num_planned=3)

    assert {name: right[name] for name in MUST_BE_NONE} == dict.fromkeys(MUST_BE_NONE, 0)
    assert {name for name in MUST_BE_NONE if wrong[name] == 1} == {
        "run after their end",
        "results recorded twice",
        "points tried twice",
    }


def test_the_program_stores_a_report_and_does_not_repeat_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["trials=12", "workers=4", "pruner=none", "--out", str(tmp_path)]
    program.main(words)
    (path,) = tmp_path.glob("*.json")
    first = capsys.readouterr().out
    monkeypatch.setattr(program, "Cluster", None)

    program.main(words)

    assert capsys.readouterr().out == first
    assert json.loads(path.read_text())["settings"]["trials"] == 12
    with pytest.raises(ValueError, match="must be name=value"):
        program.main(["speed=3"])


@pytest.mark.parametrize("fact", MUST_BE_NONE)
def test_the_program_fails_where_the_scheduler_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fact: str
) -> None:
    facts = {"settings": {}, **dict.fromkeys(MUST_BE_NONE, 0), fact: 1}
    monkeypatch.setattr(program, "simulate", lambda *_: facts)

    with pytest.raises(SystemExit) as end:
        program.main(["--out", str(tmp_path)])

    assert end.value.code == 1


def test_the_plots_are_drawn_from_the_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ClusterSettings(trials=12, workers=4)
    scan = [replace(small, latency_s=0.01), replace(small, latency_s=0.001)]
    monkeypatch.setattr(figures, "SCAN", scan)
    for settings in (*scan, replace(small, trials=24, latency_s=0.5)):
        program.simulate(settings, tmp_path)

    figures.draw(tmp_path, tmp_path)

    for name in ("sweep_scale_lock.svg", "sweep_scale_cpu.svg"):
        assert (tmp_path / name).read_text().count("<path") > 3
    assert "500 ms" not in (tmp_path / "sweep_scale_lock.svg").read_text(), "only the scan is a curve"
