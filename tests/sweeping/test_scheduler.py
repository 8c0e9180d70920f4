from pathlib import Path
from typing import Any

import pytest
import yaml
from support.study_schedulers import LENGTHS, RATES, WORDS, finish, freeze_or_clash, job_of, run_all, scheduler, spec

from ptl_prefix.artifacts.run_folder import CONFIRM
from ptl_prefix.sweeping import liveness, trial_store
from ptl_prefix.sweeping.pruners import SuccessiveHalving
from ptl_prefix.sweeping.samplers import RandomPoints
from ptl_prefix.sweeping.scheduler import Outcome, Scheduler
from ptl_prefix.sweeping.search_space import Choice, SearchSpace
from ptl_prefix.sweeping.study_spec import Arm, Budget, Confirmation
from ptl_prefix.sweeping.summary import summarize

TWO = [Arm(name="a", overrides=("method=a",), space=LENGTHS), Arm(name="b", overrides=("method=b",), space=LENGTHS)]


def states(one: Scheduler, arm: str = "") -> list[str]:
    return [trial.state for trial in one.store.trials(arm)]


class TestNewTrials:
    def test_a_trial_is_a_frozen_config_in_a_folder_of_its_own(self, tmp_path: Path) -> None:
        job = job_of(scheduler(tmp_path, spec()))

        config = yaml.safe_load(job.folder.config.read_text())
        assert job.folder.path == tmp_path / "0"
        assert config["run_id"] == "small-abc123-0" and config["study"] == "small" and config["trial"] == 0
        assert config["settings"]["task.num_train"] == "8"
        assert f"method.prefix_length={config['settings']['method.prefix_length']}" in job.trial.overrides
        assert job.max_steps == 90 and job.origin == "new"

    def test_the_budget_is_trials_that_end_well(self, tmp_path: Path) -> None:
        one = scheduler(tmp_path, spec())
        one.close(job_of(one), Outcome("failed", failure="crash", error="ValueError: once"))

        jobs = run_all(one)

        assert len(jobs) == 4
        assert states(one) == ["failed", *["finished"] * 4]
        assert one.next() == "done"

    def test_a_space_that_is_smaller_than_the_budget_ends_the_search(self, tmp_path: Path) -> None:
        one = scheduler(tmp_path, spec(space=WORDS, budget=Budget(trials=9)))

        assert {job.trial.overrides for job in run_all(one)} == {("method.reparam=none",), ("method.reparam=mlp",)}

    @pytest.mark.parametrize("limit", [{"seconds": 25.0}, {"tokens": 250}])
    def test_seconds_and_tokens_end_a_search_as_well(self, tmp_path: Path, limit: dict[str, float]) -> None:
        one = scheduler(tmp_path, spec(budget=Budget(trials=None, **limit)))

        assert len(run_all(one)) == 3

    def test_a_sampler_that_repeats_itself_gets_every_point_once(self, tmp_path: Path) -> None:
        one = scheduler(tmp_path, spec(budget=Budget(trials=8)), sampler=RandomPoints(seed=0))

        jobs = run_all(one)

        assert len({job.trial.overrides for job in jobs}) == len(jobs) == 8
        assert "set aside" in states(one), "eight draws of eight numbers without a repetition would be a wonder"
        assert "set aside set aside" not in " ".join(states(one)), "it is not asked twice for one new point"

    def test_two_schedulers_share_a_study_and_ask_nothing_twice(self, tmp_path: Path) -> None:
        desks = [scheduler(tmp_path, spec(budget=Budget(trials=8)), sampler=RandomPoints(seed=0)) for _ in range(2)]

        jobs = [job_of(desks[place % 2]) for place in range(8)]

        assert len({job.trial.overrides for job in jobs}) == 8
        assert len({job.folder.path for job in jobs}) == 8
        assert [one.next() for one in desks] == ["wait", "wait"]

    def test_arms_take_turns_and_have_the_whole_budget_each(self, tmp_path: Path) -> None:
        one = scheduler(tmp_path, spec(arms=TWO))

        jobs = run_all(one)

        assert [job.trial.arm for job in jobs] == ["a", "b"] * 4
        assert jobs[1].folder.path == tmp_path / "b/0"

    def test_arms_draw_other_numbers_from_the_same_space(self, tmp_path: Path) -> None:
        arms = [Arm(name=name, overrides=(), space=RATES) for name in ("a", "b")]
        one = scheduler(tmp_path, spec(arms=arms), sampler=RandomPoints(seed=0))

        assert len({job.trial.overrides for job in run_all(one)}) == 8

    def test_settings_that_clash_fail_their_trial_alone(self, tmp_path: Path) -> None:
        one = scheduler(tmp_path, spec(space=WORDS), freeze=freeze_or_clash)

        jobs = run_all(one)

        (failed,) = (trial for trial in one.store.trials("") if trial.state == "failed")
        assert len(jobs) == 1
        assert failed.notes["failure"] == "config" and failed.notes["error"] == "`a` and `b` clash."


class TestGoingOn:
    def test_a_trial_whose_worker_is_gone_goes_on_in_its_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = scheduler(tmp_path, spec())
        job = job_of(first)
        monkeypatch.setattr("ptl_prefix.sweeping.trial.is_alive", lambda owner: False)

        again = job_of(scheduler(tmp_path, spec()))

        assert again.trial.number == job.trial.number and again.folder.path == job.folder.path
        assert again.origin == "interrupted"

    def test_one_that_died_before_its_point_was_written_down_is_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = scheduler(tmp_path, spec())
        one.store.study("").ask()

        job = job_of(one)

        assert job.trial.number == 1
        assert states(one) == ["set aside", "running"]

    def test_one_that_died_before_its_folder_was_made_gets_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = scheduler(tmp_path, spec())
        job = job_of(one)
        before = job.folder.config.read_text()
        job.folder.config.unlink()
        monkeypatch.setattr("ptl_prefix.sweeping.trial.is_alive", lambda owner: False)

        assert job_of(one).folder.config.read_text() == before

    def test_who_is_killed_three_times_has_failed(self, tmp_path: Path) -> None:
        one = scheduler(tmp_path, spec())

        for _ in range(3):
            job = job_of(one)
            assert job.trial.number == 0
            one.close(job, Outcome("killed"))

        trial = one.store.trials("")[0]
        assert trial.state == "failed" and trial.notes["failure"] == "killed"

    def test_who_is_released_may_be_so_any_number_of_times(self, tmp_path: Path) -> None:
        one = scheduler(tmp_path, spec())

        for _ in range(5):
            one.close(job_of(one), Outcome("released"))

        assert states(one) == ["interrupted"]

    def test_a_beat_keeps_a_trial_of_another_machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        one = scheduler(tmp_path, spec(budget=Budget(trials=1)))
        here = liveness.this_process()
        monkeypatch.setattr(trial_store, "this_process", lambda: {**here, "machine": "another", "pid": 1})
        job = job_of(one)
        one.store.beat(job.trial)

        assert one.next() == "wait"


class TestStopping:
    def test_a_stop_reaches_every_scheduler_and_is_taken_back(self, tmp_path: Path) -> None:
        one, other = (scheduler(tmp_path, spec()) for _ in range(2))

        one.store.tell_to_stop("new")
        assert other.next() == "done" and other.store.stop == "new"

        one.store.tell_to_stop(None)
        assert job_of(other).trial.number == 0

    def test_an_arm_whose_first_trials_fail_alike_is_given_up(self, tmp_path: Path) -> None:
        one = scheduler(tmp_path, spec(arms=TWO, max_failure_rate=1.0))

        while (job := one.next()) != "done":
            assert job != "wait"
            failed = Outcome("failed", failure="crash", error="KeyError: 'x'")
            one.close(job, failed if job.trial.arm == "a" else Outcome("finished", value=1.0))

        assert states(one, "a") == ["failed"] * 3
        assert states(one, "b") == ["finished"] * 4
        assert "all failed alike: KeyError: 'x'" in (one.surrender(TWO[0], one.store.trials("a")) or "")

    def test_errors_that_differ_count_by_their_rate(self, tmp_path: Path) -> None:
        one = scheduler(tmp_path, spec())

        for number in range(3):
            one.close(job_of(one), Outcome("failed", failure="crash", error=f"ValueError: {number}"))

        assert one.next() == "done"
        reason = one.surrender(one.spec.arms[0], one.store.trials(""))
        assert reason == "3 of its trials failed, more than `max_failure_rate` allows of 4"


class TestPausing:
    def reach(self, one: Scheduler, job: Any, rung: int, value: float) -> None:
        """A trial that came to a rung, and was not among the best there."""
        one.store.note(job.trial, **{f"rung_{rung}": value})
        one.close(job, Outcome("paused", notes={"paused_at": rung}))

    def test_who_turns_out_to_be_among_the_best_goes_on_first(self, tmp_path: Path) -> None:
        one = scheduler(tmp_path, spec(), pruner=SuccessiveHalving(min_steps=10, reduction_factor=2))
        first, second = job_of(one), job_of(one)
        self.reach(one, first, 10, 1.0)
        self.reach(one, second, 10, 2.0)

        promoted = job_of(one)

        assert promoted.trial.number == first.trial.number and promoted.origin == "promoted"

    def test_who_is_never_promoted_is_pruned_at_the_end(self, tmp_path: Path) -> None:
        one = scheduler(
            tmp_path, spec(budget=Budget(trials=2)), pruner=SuccessiveHalving(min_steps=10, reduction_factor=2)
        )
        first, second = job_of(one), job_of(one)
        self.reach(one, first, 10, 1.0)
        self.reach(one, second, 10, 2.0)
        finish(one, job_of(one), 0.5)

        assert one.next() == "done"
        assert states(one) == ["finished", "pruned"]

    def test_of_too_few_trials_the_best_is_finished(self, tmp_path: Path) -> None:
        one = scheduler(
            tmp_path, spec(budget=Budget(trials=2)), pruner=SuccessiveHalving(min_steps=10, reduction_factor=4)
        )
        first, second = job_of(one), job_of(one)
        self.reach(one, first, 10, 2.0)
        self.reach(one, second, 10, 1.0)

        assert job_of(one).trial.number == second.trial.number


class TestConfirming:
    def test_the_best_of_each_arm_meet_on_the_same_seeds(self, tmp_path: Path) -> None:
        asked = spec(arms=TWO, budget=Budget(trials=2), confirmation=Confirmation(top_k=1, seeds=[1, 2]))
        one = scheduler(tmp_path, asked)

        jobs = run_all(one)

        confirmed = [job for job in jobs if job.trial.arm == CONFIRM]
        best = {arm: one.store.best(arm)[0] for arm in ("a", "b")}
        assert [job.trial.overrides for job in confirmed] == [
            (f"method={arm}", *best[arm].overrides, f"seed={seed}") for arm in ("a", "b") for seed in (1, 2)
        ]
        assert one.next() == "done"

    def test_it_waits_until_the_search_of_every_arm_is_over(self, tmp_path: Path) -> None:
        asked = spec(arms=TWO, budget=Budget(trials=1), confirmation=Confirmation(top_k=1, seeds=[1]))
        one = scheduler(tmp_path, asked)
        first, second = job_of(one), job_of(one)
        finish(one, first, 1.0)

        assert one.next() == "wait" and one.confirming() == []
        assert summarize(one).to_confirm == 2
        finish(one, second, 1.0)
        assert job_of(one).trial.arm == CONFIRM
        assert summarize(one).to_confirm == 0
        assert [arm.wanted for arm in summarize(one).arms] == [1, 1, 2]

    def test_where_all_have_failed_nothing_is_confirmed(self, tmp_path: Path) -> None:
        one = scheduler(tmp_path, spec(max_failure_rate=1.0, confirmation=Confirmation(top_k=1, seeds=[1])))
        for _ in range(3):
            one.close(job_of(one), Outcome("failed", failure="crash", error="ValueError: always"))

        assert one.next() == "done"
        assert summarize(one).to_confirm == 0

    def test_the_seed_of_the_search_gives_way(self, tmp_path: Path) -> None:
        seeds = SearchSpace({"seed": Choice(values=[5], texts=["5"])})
        one = scheduler(tmp_path, spec(space=seeds, confirmation=Confirmation(top_k=1, seeds=[1])))

        assert run_all(one)[-1].trial.overrides == ("seed=1",)

    def test_maximising_confirms_the_greatest(self, tmp_path: Path) -> None:
        asked = spec(direction="maximize", space=WORDS, confirmation=Confirmation(top_k=1, seeds=[7]))
        one = scheduler(tmp_path, asked)

        jobs = run_all(one, {("method.reparam=none",): 0.1, ("method.reparam=mlp",): 0.9})

        assert jobs[-1].trial.overrides == ("method.reparam=mlp", "seed=7")
