"""Chooses each worker's next trial and records its result.

In: a study's trials in its storage. Out: a job for a worker, or the answer that it has to wait or that the study is
done. Every decision is made under the study's lock and from the storage alone. So any worker may die at any moment and
any number of workers may join: no point is tried twice, no trial is lost, and none runs in two processes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ptl_prefix.artifacts.run_config import read_config, write_config
from ptl_prefix.artifacts.run_folder import CONFIRM
from ptl_prefix.errors import ConfigError
from ptl_prefix.sweeping.job import EarlyStop, Job, Origin, Outcome
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
        cache: Results of earlier runs, which replace a training; `None` trains every trial.
    """

    def __init__(
        self, store: TrialStore, proposer: Proposer, pruner: Pruner, compose: ComposeConfig, cache: ResultCache | None
    ) -> None:
        self._store, self._proposer, self._pruner = store, proposer, pruner
        self._compose, self._cache = compose, cache
        self.spec, self.folder = store.spec, store.folder

    # For workers

    def next_job(self) -> Job | Literal["wait", "done"]:
        """The next job; `wait` while other workers may still leave one, `done` if the study has no more."""
        with self._store.lock():
            if self._store.stop_request is not None:
                return "done"
            # Arms with the fewest trials come first; the confirmation follows when all of them are done.
            job = self._next_of_arms(sorted(self.spec.arms, key=lambda arm: num_counted(self.trials(arm.name))))
            return self._next_of_arms(self.confirmation_arms()) if job == "done" else job

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
            return None
        if isinstance(self._pruner, SuccessiveHalving):
            return self._report_rungs(job, step, self.spec.sign * value, self._pruner)
        pruner = self._pruner.make(job.max_steps)
        should_prune = pruner.prune(self.optuna_study(job.trial.arm), self._store.optuna_trial(job.trial))
        return "pruned" if should_prune else None

    def _report_rungs(self, job: Job, step: int, value: float, pruner: SuccessiveHalving) -> EarlyStop | None:
        """Store the rungs that a trial reached, and pause it at the highest unless it is among the best there."""
        rungs_of_trials = {trial.number: trial.rungs for trial in self.trials(job.trial.arm)}
        own = rungs_of_trials.pop(job.trial.number)
        reached = [rung for rung in pruner.rungs(job.max_steps) if rung <= step and rung not in own]
        self._store.note(job.trial, **rung_notes(dict.fromkeys(reached, value)))
        if not reached:
            return None
        others = [rungs[reached[-1]] for rungs in rungs_of_trials.values() if reached[-1] in rungs]
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
        candidates, seeds = [f"{trial.arm}/{trial.number}" for trial in best], list(self.spec.confirm_seeds)
        if not candidates:
            return []
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

    # The next job of an arm

    def _is_open(self, arm: Arm) -> bool:
        trials = self.trials(arm.name)
        has_open = any(trial.state in ("running", "paused", "interrupted") for trial in trials)
        return has_open or needs_new_trial(self.spec, arm, trials)

    def _next_of_arms(self, arms: Sequence[Arm]) -> Job | Literal["wait", "done"]:
        must_wait = False
        for arm in arms:
            job = self._next_of_arm(arm)
            if isinstance(job, Job):
                return job
            must_wait |= job == "wait"
        return "wait" if must_wait else "done"

    def _next_of_arm(self, arm: Arm) -> Job | Literal["wait", "done"]:
        """Resume before starting anew. Paused trials are pruned when nothing else is left and none can be promoted."""
        job: Job | None = None
        while job is None:
            trials = self.trials(arm.name)
            if (interrupted := self._first_interrupted(trials)) is not None:
                job = self._resume(interrupted, "interrupted")
            elif (promoted := self._next_promoted(trials)) is not None:
                job = self._resume(promoted, "promoted")
            elif needs_new_trial(self.spec, arm, trials):
                job = self._start(arm, trials)
            elif any(trial.state in ("running", "interrupted") for trial in trials):
                return "wait"
            elif (paused := best_paused(trials)) is not None:
                job = self._resume(paused, "promoted")
            else:
                for trial in trials:
                    if trial.state == "paused":
                        self._store.end(trial, "PRUNED")
                return "done"
        return job

    def _first_interrupted(self, trials: Sequence[Trial]) -> Trial | None:
        """The first interrupted trial whose process has ended: one that still saves its checkpoint locks its folder."""
        interrupted = (trial for trial in trials if trial.state == "interrupted")
        return next((trial for trial in interrupted if not self._store.run_folder(trial).is_held()), None)

    def _next_promoted(self, trials: Sequence[Trial]) -> Trial | None:
        if not isinstance(self._pruner, SuccessiveHalving):
            return None
        return next_promoted(trials, self._pruner.reduction_factor)

    def _start(self, arm: Arm, trials: Sequence[Trial]) -> Job | None:
        """The job of a new trial; `None` if its point is not new, or needs no training."""
        trial, overrides = self._proposer.propose(arm, trials)
        if overrides in tried_points(trials):
            self._store.end(trial, "FAIL", set_aside="asked before")
            return None
        self._store.take(trial, overrides=overrides)
        return self._prepare(self._store.reload(trial), "new")

    def _resume(self, trial: Trial, origin: Origin) -> Job | None:
        """The job of an open trial, at whichever write its worker died; `None` if it needs no training."""
        if not trial.has_point:
            self._store.end(trial, "FAIL", set_aside="torn")
            return None
        self._store.take(trial, paused_at=None)
        folder = self._store.run_folder(trial)
        return self._job(trial, read_config(folder), origin) if folder.config.exists() else self._prepare(trial, origin)

    def _prepare(self, trial: Trial, origin: Origin) -> Job | None:
        """The job of a trial without a run folder, which is made; `None` if the trial needs no training."""
        try:
            config = self._trial_config(trial)
        except ConfigError as error:
            self._store.end(trial, "FAIL", failure="config", error=" ".join(error.mistakes))
            return None
        content = content_of(config)
        self._store.note(trial, content=content)
        if self._cache is not None and (result := self._cache.find(content, self.spec.objective)) is not None:
            self._store.note(trial, reused_from=str(result.folder), **result.notes)
            self._store.finish(trial, result.value)
            return None
        write_config(self._store.run_folder(trial), config)
        return self._job(trial, config, origin)

    def _job(self, trial: Trial, config: Mapping[str, Any], origin: Origin) -> Job:
        return Job(self._store.reload(trial), self._store.run_folder(trial), max_steps_of(config), origin)

    def _trial_config(self, trial: Trial) -> dict[str, Any]:
        of_arm = () if trial.arm == CONFIRM else self.spec.arm(trial.arm).overrides
        config = self._compose((*self.spec.overrides, *of_arm, *trial.overrides))
        run_id = "-".join(filter(None, (self.spec.name, self.spec.token, trial.arm, str(trial.number))))
        # W&B groups the trials of a study by this.
        tracking = {**config["tracking"], "group": config["tracking"]["group"] or self.spec.name}
        return {**config, "run_id": run_id, "study": self.spec.name, "trial": trial.number, "tracking": tracking}


def max_steps_of(config: Mapping[str, Any]) -> int:
    """Optimizer steps of a config's training; 10^9 if it has no limit."""
    steps = int(config["trainer"].get("max_steps") or -1)
    return steps if steps > 0 else 10**9
