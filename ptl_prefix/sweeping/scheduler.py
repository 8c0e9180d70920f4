"""Chooses each worker's next trial and records its result.

In: a study's trials in its storage. Out: a job for a worker, or the answer that it has to wait or that the study is
done. Every decision is made under the study's lock and from the storage alone, and a worker has a trial under a lease
that its heartbeats renew. So any worker may die at any moment and any number of workers may join: no point is tried
twice, no trial is lost, and none runs in two processes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from ptl_prefix.artifacts.run_config import read_config, write_config
from ptl_prefix.artifacts.run_folder import CONFIRM
from ptl_prefix.errors import ConfigError
from ptl_prefix.sweeping.job import EarlyStop, Job, Origin, Outcome, TakenTrial
from ptl_prefix.sweeping.promotion import best_paused, is_promoted, next_promoted
from ptl_prefix.sweeping.proposer import Proposer
from ptl_prefix.sweeping.pruners import Pruner, SuccessiveHalving
from ptl_prefix.sweeping.result_cache import ResultCache, content_of
from ptl_prefix.sweeping.search_space import Choice, SearchSpace
from ptl_prefix.sweeping.seed_groups import best_settings
from ptl_prefix.sweeping.stopping_rules import needs_new_trial, num_counted
from ptl_prefix.sweeping.study_spec import Arm
from ptl_prefix.sweeping.trial import Trial, rung_notes
from ptl_prefix.sweeping.trial_store import StopRequest, TrialStore, tried_points

if TYPE_CHECKING:
    import optuna

_MAX_ATTEMPTS = 3

ComposeConfig = Callable[[Sequence[str]], dict[str, Any]]
"""From overrides to a resolved config; raises `ConfigError`."""


class Scheduler:
    """Chooses each worker's next trial and records its result.

    Args:
        store: The study's trials.
        proposer: Proposes the points of new trials.
        pruner: Decides which trials stop early.
        compose: Composes a trial's config.
        cache: Results of earlier runs; `None` trains every trial.
    """

    def __init__(
        self, store: TrialStore, proposer: Proposer, pruner: Pruner, compose: ComposeConfig, cache: ResultCache | None
    ) -> None:
        self._store, self._proposer, self._pruner, self._compose, self._cache = store, proposer, pruner, compose, cache
        self.spec, self.folder = store.spec, store.folder

    # For workers

    def next_job(self) -> Job | Literal["wait", "done"]:
        """The next job; `wait` while other workers may still leave one, `done` if the study has no more."""
        job: Job | None = None
        while job is None:
            with self._store.lock():
                choice = self._choose()
            if not isinstance(choice, TakenTrial):
                return choice
            job = self._prepare(choice)  # without the lock: composing a config takes longer than the choice
        return job

    def must_wait(self) -> bool:
        """Whether `next_job` would answer `wait`, by what is stored now; without the lock, as nothing is written.

        A worker that has waited asks this first: at the end of a study, hundreds would keep the lock from those that
        have something to store.
        """
        if self._store.stop_request is not None:
            return False
        following = [self._following(arm, self.trials(arm.name)) for arm in self.spec.arms]
        if all(one == "done" for one in following):
            following = [self._following(arm, self.trials(arm.name)) for arm in self.confirmation_arms()]
        return "wait" in following and all(one in ("wait", "done") for one in following)

    def heartbeat(self, job: Job) -> StopRequest | Literal["lost"] | None:
        """Store that a job's worker is alive.

        Returns:
            `lost` if another worker has taken the trial; otherwise the stop request to all workers, `None` without one.
        """
        return self._store.stop_request if self._store.heartbeat(job.trial) else "lost"

    def report(self, job: Job, step: int, value: float) -> EarlyStop | None:
        """Record a validation of a running trial.

        Returns:
            Whether the trial pauses, is pruned or was taken by another worker; `None` if it continues.
        """
        if self.spec.objective != "val/loss":
            return None
        if not self._store.report(job.trial, step, value):
            return "lost"
        if step >= job.max_steps:
            return None  # it ends anyway
        if isinstance(self._pruner, SuccessiveHalving):
            return self._report_rungs(job, step, self.spec.sign * value, self._pruner)
        pruner = self._pruner.make(job.max_steps)
        should_prune = pruner.prune(self.optuna_study(job.trial.arm), self._store.optuna_trial(job.trial))
        return "pruned" if should_prune else None

    def _report_rungs(self, job: Job, step: int, value: float, pruner: SuccessiveHalving) -> EarlyStop | None:
        """Store the rungs that a trial reached, and pause it at the highest unless it is among the best there."""
        own = self._store.reload(job.trial).rungs
        reached = [rung for rung in pruner.rungs(job.max_steps) if rung <= step and rung not in own]
        if not reached:
            return None
        self._store.note(job.trial, **rung_notes(dict.fromkeys(reached, value)))
        rungs = {trial.number: trial.rungs for trial in self.trials(job.trial.arm) if trial.number != job.trial.number}
        others = [one[reached[-1]] for one in rungs.values() if reached[-1] in one]
        return None if is_promoted(value, others, pruner.reduction_factor) else "paused"

    def close(self, job: Job, outcome: Outcome) -> bool:
        """Record how a job ended.

        Returns:
            False if another worker has taken the trial, whose outcome counts; then nothing is recorded.
        """
        trial, store = job.trial, self._store
        attempts = trial.notes.get("attempts", 0) + (outcome.kind == "killed")
        with store.lock():
            if not store.has_lease(trial):
                return False
            store.note(trial, **(outcome.notes or {}))
            if outcome.kind == "finished":
                assert outcome.value is not None
                if self._cache is not None:
                    self._cache.keep(job.folder, trial.notes["content"])
                store.finish(trial, outcome.value)
            elif outcome.kind == "pruned":
                store.end(trial, "PRUNED")
            elif outcome.kind == "failed":
                store.end(trial, "FAIL", failure=outcome.failure, error=outcome.error)
            elif attempts >= _MAX_ATTEMPTS:
                store.end(trial, "FAIL", failure="killed", error=f"killed {attempts} times")
            else:
                if outcome.kind == "paused":
                    store.note(trial, paused_at=max(store.reload(trial).rungs))
                store.note(trial, owner=None, attempts=attempts)
        return True

    # For commands that show or stop a study

    def request_stop(self, request: StopRequest | None) -> None:
        """Ask all workers of the study to stop; `None` withdraws the request."""
        self._store.request_stop(request)

    @property
    def stop_request(self) -> StopRequest | None:
        """The stop request to all workers; `None` without one."""
        return self._store.stop_request

    def trials(self, arm: str) -> list[Trial]:
        """The trials of an arm by number."""
        return self._store.trials(arm)

    def all_trials(self) -> list[Trial]:
        """The trials of all arms, those of the confirmation last."""
        return [trial for arm in (*self.spec.arms, *self.confirmation_arms()) for trial in self.trials(arm.name)]

    def best(self, arm: str, count: int = 1) -> list[Trial]:
        """The best finished trials of an arm."""
        return self._store.best(arm, count)

    def optuna_study(self, arm: str) -> "optuna.Study":
        """Optuna's study of an arm."""
        return self._store.optuna_study(arm)

    def confirmation_arms(self) -> list[Arm]:
        """The arm that trains the best settings on new seeds; none while any arm is still searched."""
        if not self.spec.confirm_top_k or self.is_searching:
            return []
        best = [
            trial
            for arm in self.spec.arms
            for trial in best_settings(arm, self.trials(arm.name), self.spec.sign, self.spec.confirm_top_k)
        ]
        if not best:
            return []
        candidates, seeds = [f"{trial.arm}/{trial.number}" for trial in best], list(self.spec.confirm_seeds)
        space = {
            "candidate": Choice(values=candidates, texts=candidates),
            "seed": Choice(values=seeds, texts=[str(seed) for seed in seeds]),
        }
        return [Arm(name=CONFIRM, overrides=(), space=SearchSpace(space))]

    @property
    def is_searching(self) -> bool:
        """Whether an arm has open trials or needs another one."""
        return any(self._is_open(arm) for arm in self.spec.arms)

    @property
    def is_done(self) -> bool:
        """Whether no trial is open and none is needed, neither of the search nor of the confirmation."""
        return not self.is_searching and not any(self._is_open(arm) for arm in self.confirmation_arms())

    # Under the lock: the choice of a trial

    def _choose(self) -> TakenTrial | Literal["wait", "done"]:
        if self._store.stop_request is not None:
            return "done"
        # Arms with the fewest trials come first; the confirmation follows when all of them are done.
        arms = self.spec.arms
        if len(arms) > 1:
            arms = sorted(arms, key=lambda arm: num_counted(self.trials(arm.name)))
        choice = self._choose_of_arms(arms)
        return self._choose_of_arms(self.confirmation_arms()) if choice == "done" else choice

    def _is_open(self, arm: Arm) -> bool:
        trials = self.trials(arm.name)
        is_open = (trial.state in ("running", "paused", "interrupted") for trial in trials)
        return any(is_open) or needs_new_trial(self.spec, arm, trials)

    def _choose_of_arms(self, arms: Sequence[Arm]) -> TakenTrial | Literal["wait", "done"]:
        must_wait = False
        for arm in arms:
            choice = self._choose_of_arm(arm)
            if isinstance(choice, TakenTrial):
                return choice
            must_wait |= choice == "wait"
        return "wait" if must_wait else "done"

    def _choose_of_arm(self, arm: Arm) -> TakenTrial | Literal["wait", "done"]:
        choice: TakenTrial | None = None
        while choice is None:
            trials = self.trials(arm.name)
            following = self._following(arm, trials)
            if isinstance(following, Trial):
                choice = self._resume(following, "interrupted" if following.state == "interrupted" else "promoted")
            elif following == "new":
                choice = self._start(arm, trials)
            else:
                if following == "done":
                    for trial in (one for one in trials if one.state == "paused"):
                        self._store.end(trial, "PRUNED")
                return following
        return choice

    def _following(self, arm: Arm, trials: Sequence[Trial]) -> Trial | Literal["new", "wait", "done"]:
        """What an arm needs next: an open trial before a new one. `done`: its paused trials will never be promoted."""
        if (interrupted := self._first_interrupted(trials)) is not None:
            return interrupted
        if (promoted := self._next_promoted(trials)) is not None:
            return promoted
        if needs_new_trial(self.spec, arm, trials):
            return "new"
        if any(trial.state in ("running", "interrupted") for trial in trials):
            return "wait"
        return best_paused(trials) or "done"

    def _first_interrupted(self, trials: Sequence[Trial]) -> Trial | None:
        """The first one whose process has ended: while it still saves its checkpoint, its folder is locked."""
        interrupted = (trial for trial in trials if trial.state == "interrupted")
        return next((trial for trial in interrupted if not self._store.run_folder(trial).is_held()), None)

    def _next_promoted(self, trials: Sequence[Trial]) -> Trial | None:
        pruner = self._pruner
        return next_promoted(trials, pruner.reduction_factor) if isinstance(pruner, SuccessiveHalving) else None

    def _start(self, arm: Arm, trials: Sequence[Trial]) -> TakenTrial | None:
        """Take a new trial; `None` if its point is not new."""
        trial, overrides = self._proposer.propose(arm, trials)
        if overrides in tried_points(trials):
            self._store.end(trial, "FAIL", set_aside="asked before")
            return None
        self._store.take(trial, overrides=overrides)
        return TakenTrial(self._store.reload(trial), "new")

    def _resume(self, trial: Trial, origin: Origin) -> TakenTrial | None:
        """Take an open trial, at whichever write its worker died; `None` if it died before it stored the point."""
        if not trial.has_point:
            self._store.end(trial, "FAIL", set_aside="torn")
            return None
        self._store.take(trial, paused_at=None)
        return TakenTrial(self._store.reload(trial), origin)

    # The job of a chosen trial, without the lock

    def _prepare(self, taken: TakenTrial) -> Job | None:
        """The job of a trial, whose run folder is made if it has none; `None` if the trial needs no training."""
        store, folder = self._store, self._store.run_folder(taken.trial)
        if folder.config.exists():
            return Job(taken.trial, folder, max_steps_of(read_config(folder)), taken.origin)
        try:
            config = self._trial_config(taken.trial)
        except ConfigError as error:
            failed = Outcome("failed", failure="config", error=" ".join(error.mistakes))
            self.close(Job(taken.trial, folder, 0, taken.origin), failed)
            return None
        content = content_of(config)
        result = None if self._cache is None else self._cache.find(content, self.spec.objective)
        if result is not None:
            reused = {"content": content, "reused_from": str(result.folder), **result.notes}
            with store.lock():
                if store.note_under_lease(taken.trial, **reused):
                    store.finish(taken.trial, result.value)
            return None
        if not store.note_under_lease(taken.trial, content=content):
            return None
        write_config(folder, config)
        trial = replace(taken.trial, notes={**taken.trial.notes, "content": content})
        return Job(trial, folder, max_steps_of(config), taken.origin)

    def _trial_config(self, trial: Trial) -> dict[str, Any]:
        of_arm = () if trial.arm == CONFIRM else self.spec.arm(trial.arm).overrides
        config = self._compose((*self.spec.overrides, *of_arm, *trial.overrides))
        run_id = "-".join(filter(None, (self.spec.name, self.spec.token, trial.arm, str(trial.number))))
        # W&B groups the trials of a study by this.
        tracking = {**config["tracking"], "group": config["tracking"]["group"] or self.spec.name}
        return {**config, "run_id": run_id, "study": self.spec.name, "trial": trial.number, "tracking": tracking}


def max_steps_of(config: Mapping[str, Any]) -> int:
    """Optimizer steps of a config's training; 10^9 if it has no limit."""
    return steps if (steps := int(config["trainer"].get("max_steps") or -1)) > 0 else 10**9
