from pathlib import Path
from typing import Any

import pytest
import yaml
from support.study_schedulers import (
    LENGTHS,
    RATES,
    WORDS,
    compose_or_raise,
    finish,
    make_scheduler,
    make_store,
    next_job,
    run_all,
    spec,
)

from ptl_prefix.artifacts.run_folder import CONFIRM
from ptl_prefix.sweeping.job import Job, Outcome
from ptl_prefix.sweeping.liveness import Liveness
from ptl_prefix.sweeping.pruners import SuccessiveHalving
from ptl_prefix.sweeping.samplers import RandomPoints
from ptl_prefix.sweeping.scheduler import Scheduler
from ptl_prefix.sweeping.search_space import Choice, SearchSpace
from ptl_prefix.sweeping.stopping_rules import failure_reason
from ptl_prefix.sweeping.study_spec import Arm
from ptl_prefix.sweeping.summary import summarize
from ptl_prefix.sweeping.trial import beat_key

TWO = [Arm(name="a", overrides=("method=a",), space=LENGTHS), Arm(name="b", overrides=("method=b",), space=LENGTHS)]


def states(scheduler: Scheduler, arm: str = "") -> list[str]:
    return [trial.state for trial in scheduler.trials(arm)]


class TestNewTrials:
    def test_a_trial_is_a_frozen_config_in_a_folder_of_its_own(self, tmp_path: Path) -> None:
        job = next_job(make_scheduler(tmp_path, spec()))

        config = yaml.safe_load(job.folder.config.read_text())
        assert job.folder.path == tmp_path / "0"
        assert config["run_id"] == "small-abc123-0" and config["study"] == "small" and config["trial"] == 0
        assert config["settings"]["task.num_train"] == "8"
        assert f"method.prefix_length={config['settings']['method.prefix_length']}" in job.trial.overrides
        assert job.max_steps == 90 and job.origin == "new"

    def test_failed_trials_do_not_count_against_the_budget(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(tmp_path, spec())
        scheduler.close(next_job(scheduler), Outcome("failed", failure="crash", error="ValueError: once"))

        jobs = run_all(scheduler)

        assert len(jobs) == 4
        assert states(scheduler) == ["failed", *["finished"] * 4]
        assert scheduler.next_job() == "done"

    def test_a_space_that_is_smaller_than_the_budget_ends_the_search(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(tmp_path, spec(space=WORDS, n_trials=9))

        assert {job.trial.overrides for job in run_all(scheduler)} == {
            ("method.reparam=none",),
            ("method.reparam=mlp",),
        }

    @pytest.mark.parametrize("limit", [{"budget_s": 25.0}, {"budget_tokens": 250.0}])
    def test_a_budget_in_seconds_or_tokens_ends_a_search(self, tmp_path: Path, limit: dict[str, float]) -> None:
        scheduler = make_scheduler(tmp_path, spec(n_trials=None, **limit))

        assert len(run_all(scheduler)) == 3

    def test_every_point_is_tried_once_although_the_sampler_repeats_points(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(tmp_path, spec(n_trials=8), sampler=RandomPoints(seed=0))

        jobs = run_all(scheduler)

        assert len({job.trial.overrides for job in jobs}) == len(jobs) == 8
        assert "discarded" in states(scheduler), "eight random draws of eight numbers repeat one"
        assert "discarded discarded" not in " ".join(states(scheduler)), (
            "a sampler repeats at most once for each new point"
        )

    def test_two_schedulers_of_a_study_never_start_the_same_point(self, tmp_path: Path) -> None:
        schedulers = [make_scheduler(tmp_path, spec(n_trials=8), sampler=RandomPoints(seed=0)) for _ in range(2)]

        jobs = [next_job(schedulers[place % 2]) for place in range(8)]

        assert len({job.trial.overrides for job in jobs}) == 8
        assert len({job.folder.path for job in jobs}) == 8
        assert [each.next_job() for each in schedulers] == ["wait", "wait"]

    def test_arms_take_turns_and_have_the_whole_budget_each(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(tmp_path, spec(arms=TWO))

        jobs = run_all(scheduler)

        assert [job.trial.arm for job in jobs] == ["a", "b"] * 4
        assert jobs[1].folder.path == tmp_path / "b/0"

    def test_arms_with_the_same_space_draw_different_points(self, tmp_path: Path) -> None:
        arms = [Arm(name=name, overrides=(), space=RATES) for name in ("a", "b")]
        scheduler = make_scheduler(tmp_path, spec(arms=arms), sampler=RandomPoints(seed=0))

        assert len({job.trial.overrides for job in run_all(scheduler)}) == 8

    def test_contradicting_settings_fail_only_their_own_trial(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(tmp_path, spec(space=WORDS), compose=compose_or_raise)

        jobs = run_all(scheduler)

        (failed,) = (trial for trial in scheduler.trials("") if trial.state == "failed")
        assert len(jobs) == 1
        assert failed.notes["failure"] == "config" and failed.notes["error"] == "`a` and `b` clash."


class Clock:
    """Seconds that a test sets."""

    now = 0.0


def scheduler_on(machine: str, folder: Path, clock: Clock) -> Scheduler:
    """The scheduler of a worker on a machine, for a study of one trial."""
    liveness = Liveness(clock=lambda: clock.now, machine=lambda: machine, start_time=lambda pid: 0.0)
    return make_scheduler(folder, spec(n_trials=1), liveness=liveness)


class TakenOver:
    """A trial whose worker was silent for 100 s, so that one on another machine has resumed it."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.here, self.away = (scheduler_on(machine, folder, self.clock) for machine in ("here", "away"))
        self.lost = next_job(self.away)
        self.clock.now = 100.0
        self.taken = next_job(self.here)


class TestResuming:
    def test_a_trial_whose_worker_died_is_resumed_in_its_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = make_scheduler(tmp_path, spec())
        job = next_job(first)
        monkeypatch.setattr(Liveness, "is_alive", lambda *_: False)

        again = next_job(make_scheduler(tmp_path, spec()))

        assert again.trial.number == job.trial.number and again.folder.path == job.folder.path
        assert again.origin == "interrupted"

    def test_a_trial_whose_worker_died_before_storing_the_point_is_discarded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scheduler = make_scheduler(tmp_path, spec())
        scheduler.optuna_study("").ask()

        job = next_job(scheduler)

        assert job.trial.number == 1
        assert states(scheduler) == ["discarded", "running"]

    def test_a_trial_whose_worker_died_before_making_its_folder_gets_the_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scheduler = make_scheduler(tmp_path, spec())
        job = next_job(scheduler)
        before = job.folder.config.read_text()
        job.folder.config.unlink()
        monkeypatch.setattr(Liveness, "is_alive", lambda *_: False)

        assert next_job(scheduler).folder.config.read_text() == before

    def test_a_trial_that_is_killed_three_times_has_failed(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(tmp_path, spec())

        for _ in range(3):
            job = next_job(scheduler)
            assert job.trial.number == 0
            scheduler.close(job, Outcome("killed"))

        trial = scheduler.trials("")[0]
        assert trial.state == "failed" and trial.notes["failure"] == "killed"

    def test_a_trial_may_be_interrupted_any_number_of_times(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(tmp_path, spec())

        for _ in range(5):
            scheduler.close(next_job(scheduler), Outcome("interrupted"))

        assert states(scheduler) == ["interrupted"]

    def test_a_heartbeat_keeps_a_trial_of_another_machine_running(self, tmp_path: Path) -> None:
        clock = Clock()
        here, away = (scheduler_on(machine, tmp_path, clock) for machine in ("here", "away"))
        job = next_job(away)
        clock.now = 50.0
        away.heartbeat(job)

        clock.now = 139.0
        assert here.next_job() == "wait"
        clock.now = 141.0
        assert next_job(here).trial.number == job.trial.number

    def test_a_worker_that_was_silent_for_too_long_loses_its_trial_and_its_result_does_not_count(
        self, tmp_path: Path
    ) -> None:
        study = TakenOver(tmp_path)
        here, away, lost = study.here, study.away, study.lost

        assert away.heartbeat(lost) == "lost"
        assert away.report(lost, 10, 9.0) == "lost"
        assert not away.close(lost, Outcome("finished", value=9.0))
        assert away.next_job() == "wait"
        assert here.close(study.taken, Outcome("finished", value=1.0))
        # The trial has ended now, and Optuna would raise.
        assert (away.heartbeat(lost), away.report(lost, 20, 9.0)) == ("lost", "lost")
        (trial,) = here.trials("")
        assert (trial.state, trial.value, trial.intermediate_values) == ("finished", 1.0, {})

    def test_a_heartbeat_that_arrives_after_the_trial_was_taken_does_not_make_the_new_worker_look_dead(
        self, tmp_path: Path
    ) -> None:
        study = TakenOver(tmp_path)
        study.clock.now = 150.0
        study.here.heartbeat(study.taken)

        lost = study.lost.trial
        make_store(tmp_path, study.here.spec).note(lost, **{beat_key(lost.lease): 9.0})

        study.clock.now = 200.0
        assert study.away.next_job() == "wait"

    def test_a_trial_whose_folder_is_still_locked_is_not_resumed(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(tmp_path, spec(n_trials=1))
        job = next_job(scheduler)
        scheduler.close(job, Outcome("interrupted"))

        with job.folder.held():
            assert scheduler.next_job() == "wait"

        assert next_job(scheduler).trial.number == job.trial.number


class TestWaiting:
    def test_it_says_without_the_lock_what_the_next_answer_is(self, tmp_path: Path) -> None:
        pruner = SuccessiveHalving(reduction_factor=2, min_steps=10)
        study = spec(n_trials=2, confirm_top_k=1, confirm_seeds=[1, 2])
        scheduler, other = (make_scheduler(tmp_path, study, pruner=pruner) for _ in range(2))

        def answers(count: int) -> list[Job]:
            """Jobs until it would have to wait, which is known before each answer."""
            jobs = []
            while not (must_wait := other.must_wait()):
                jobs.append(next_job(scheduler))
            assert other.next_job() == "wait" and must_wait
            assert len(jobs) == count
            return jobs

        first, second = answers(2)
        assert scheduler.report(first, 10, 1.0) == "paused"
        scheduler.close(first, Outcome("paused"))
        assert other.must_wait(), "one of two trials is promoted, when the other one has a value"
        assert scheduler.report(second, 10, 2.0) == "paused"
        (promoted,) = answers(1)
        assert promoted.trial.number == first.trial.number
        scheduler.close(second, Outcome("interrupted"))
        with second.folder.held():
            assert other.must_wait(), "it still saves its checkpoint"
        (resumed,) = answers(1)
        finish(scheduler, promoted, 1.0)
        finish(scheduler, resumed, 2.0)
        confirming = answers(2)
        scheduler.request_stop("new")
        assert not other.must_wait() and other.next_job() == "done"
        scheduler.request_stop(None)
        for job in confirming:
            finish(scheduler, job, 1.0)
        assert not other.must_wait() and other.next_job() == "done"


class TestStopping:
    def test_a_stop_request_reaches_every_scheduler_and_can_be_withdrawn(self, tmp_path: Path) -> None:
        scheduler, other = (make_scheduler(tmp_path, spec()) for _ in range(2))

        scheduler.request_stop("new")
        assert other.next_job() == "done" and other.stop_request == "new"

        scheduler.request_stop(None)
        assert next_job(other).trial.number == 0

    def test_an_arm_whose_first_trials_fail_with_the_same_error_stops(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(tmp_path, spec(arms=TWO, max_failure_rate=1.0))

        while (job := scheduler.next_job()) != "done":
            assert job != "wait"
            failed = Outcome("failed", failure="crash", error="KeyError: 'x'")
            scheduler.close(job, failed if job.trial.arm == "a" else Outcome("finished", value=1.0))

        assert states(scheduler, "a") == ["failed"] * 3
        assert states(scheduler, "b") == ["finished"] * 4
        assert "all failed with the same error: KeyError: 'x'" in (
            failure_reason(scheduler.spec, TWO[0], scheduler.trials("a")) or ""
        )

    def test_an_arm_with_different_errors_stops_at_the_failure_rate(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(tmp_path, spec())

        for number in range(3):
            scheduler.close(next_job(scheduler), Outcome("failed", failure="crash", error=f"ValueError: {number}"))

        assert scheduler.next_job() == "done"
        reason = failure_reason(scheduler.spec, scheduler.spec.arms[0], scheduler.trials(""))
        assert reason == "3 of its trials failed, more than `max_failure_rate` allows of 4"


class TestPausing:
    def reach(self, scheduler: Scheduler, job: Any, rung: int, value: float) -> None:
        """Pause a trial at a rung."""
        make_store(scheduler.folder, scheduler.spec).note(job.trial, **{f"rung_{rung}": value})
        scheduler.close(job, Outcome("paused"))

    def test_a_trial_at_a_rung_is_counted_once_among_those_that_reached_it(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(tmp_path, spec(), pruner=SuccessiveHalving(min_steps=10, reduction_factor=2))
        first, second, third = next_job(scheduler), next_job(scheduler), next_job(scheduler)

        assert scheduler.report(first, 10, 2.0) == "paused", "one trial has no better half"
        assert scheduler.report(second, 10, 1.0) is None
        assert scheduler.report(third, 10, 1.5) == "paused", "of three trials one goes on"

    def test_a_promoted_trial_comes_before_new_ones(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(tmp_path, spec(), pruner=SuccessiveHalving(min_steps=10, reduction_factor=2))
        first, second = next_job(scheduler), next_job(scheduler)
        self.reach(scheduler, first, 10, 1.0)
        self.reach(scheduler, second, 10, 2.0)

        promoted = next_job(scheduler)

        assert promoted.trial.number == first.trial.number and promoted.origin == "promoted"

    def test_a_trial_that_is_never_promoted_is_pruned_at_the_end(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(
            tmp_path, spec(n_trials=2), pruner=SuccessiveHalving(min_steps=10, reduction_factor=2)
        )
        first, second = next_job(scheduler), next_job(scheduler)
        self.reach(scheduler, first, 10, 1.0)
        self.reach(scheduler, second, 10, 2.0)
        finish(scheduler, next_job(scheduler), 0.5)

        assert scheduler.next_job() == "done"
        assert states(scheduler) == ["finished", "pruned"]

    def test_with_too_few_trials_to_promote_one_the_best_is_finished(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(
            tmp_path, spec(n_trials=2), pruner=SuccessiveHalving(min_steps=10, reduction_factor=4)
        )
        first, second = next_job(scheduler), next_job(scheduler)
        self.reach(scheduler, first, 10, 2.0)
        self.reach(scheduler, second, 10, 1.0)

        assert next_job(scheduler).trial.number == second.trial.number


class TestConfirming:
    def test_the_best_of_each_arm_meet_on_the_same_seeds(self, tmp_path: Path) -> None:
        study = spec(arms=TWO, n_trials=2, confirm_top_k=1, confirm_seeds=[1, 2])
        scheduler = make_scheduler(tmp_path, study)

        jobs = run_all(scheduler)

        confirmed = [job for job in jobs if job.trial.arm == CONFIRM]
        best = {arm: scheduler.best(arm)[0] for arm in ("a", "b")}
        assert [job.trial.overrides for job in confirmed] == [
            (f"method={arm}", *best[arm].overrides, f"seed={seed}") for arm in ("a", "b") for seed in (1, 2)
        ]
        assert scheduler.next_job() == "done"

    def test_the_confirmation_waits_until_every_arm_is_searched(self, tmp_path: Path) -> None:
        study = spec(arms=TWO, n_trials=1, confirm_top_k=1, confirm_seeds=[1])
        scheduler = make_scheduler(tmp_path, study)
        first, second = next_job(scheduler), next_job(scheduler)
        finish(scheduler, first, 1.0)

        assert scheduler.next_job() == "wait" and scheduler.confirmation_arms() == []
        assert summarize(scheduler).max_confirmations == 2
        finish(scheduler, second, 1.0)
        assert next_job(scheduler).trial.arm == CONFIRM
        assert summarize(scheduler).max_confirmations == 0
        assert [arm.num_planned for arm in summarize(scheduler).arms] == [1, 1, 2]

    def test_nothing_is_confirmed_if_every_trial_failed(self, tmp_path: Path) -> None:
        scheduler = make_scheduler(tmp_path, spec(max_failure_rate=1.0, confirm_top_k=1, confirm_seeds=[1]))
        for _ in range(3):
            scheduler.close(next_job(scheduler), Outcome("failed", failure="crash", error="ValueError: always"))

        assert scheduler.next_job() == "done"
        assert summarize(scheduler).max_confirmations == 0

    def test_the_confirmation_replaces_the_seed_of_the_search(self, tmp_path: Path) -> None:
        seeds = SearchSpace({"seed": Choice(values=[5], texts=["5"])})
        scheduler = make_scheduler(tmp_path, spec(space=seeds, confirm_top_k=1, confirm_seeds=[1]))

        assert run_all(scheduler)[-1].trial.overrides == ("seed=1",)

    def test_the_confirmation_has_overrides_of_its_own(self, tmp_path: Path) -> None:
        study = spec(space=WORDS, confirm_top_k=1, confirm_seeds=[1, 2], confirm_overrides=["task.count=9"])

        *_, first, second = [job.trial.overrides for job in run_all(make_scheduler(tmp_path, study))]

        assert [one[-2:] for one in (first, second)] == [("seed=1", "task.count=9"), ("seed=2", "task.count=9")]

    def test_after_a_search_over_seeds_each_setting_is_confirmed_once_the_best_mean_first(self, tmp_path: Path) -> None:
        letters, seeds = ["a", "b", "c"], [0, 1]
        space = SearchSpace(
            {"task.name": Choice(values=letters, texts=letters), "seed": Choice(values=seeds, texts=["0", "1"])}
        )
        losses = {"a": (1.0, 4.0), "b": (1.2, 1.4), "c": (2.0, 2.2)}  # a has the luckiest seed, and the worst mean
        values = {(f"task.name={letter}", f"seed={seed}"): losses[letter][seed] for letter in letters for seed in seeds}
        study = spec(space=space, n_trials=6, confirm_top_k=2, confirm_seeds=[7])

        jobs = run_all(make_scheduler(tmp_path, study), values)

        confirmed = [job.trial.overrides for job in jobs if job.trial.arm == CONFIRM]
        assert confirmed == [("task.name=b", "seed=7"), ("task.name=c", "seed=7")]

    def test_with_direction_maximize_the_greatest_is_confirmed(self, tmp_path: Path) -> None:
        study = spec(direction="maximize", space=WORDS, confirm_top_k=1, confirm_seeds=[7])
        scheduler = make_scheduler(tmp_path, study)

        jobs = run_all(scheduler, {("method.reparam=none",): 0.1, ("method.reparam=mlp",): 0.9})

        assert jobs[-1].trial.overrides == ("method.reparam=mlp", "seed=7")
