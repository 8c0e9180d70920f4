"""Who does what next: the one place where a study's workers agree.

In: what is written down of a study. Out: a job for the worker that asks, or that there is none now, or none ever again.
Everything is decided under the study's lock and from what is written down alone, so that any worker may die at any
moment, and any number of them may join: no point is asked twice, none is lost, none runs in two places.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ptl_prefix.artifacts.run_config import read_config, write_config
from ptl_prefix.artifacts.run_folder import CONFIRM, RunFolder
from ptl_prefix.errors import ConfigError
from ptl_prefix.sweeping.liveness import this_process
from ptl_prefix.sweeping.proposer import Proposer
from ptl_prefix.sweeping.pruners import Pruner, SuccessiveHalving, is_promoted
from ptl_prefix.sweeping.result_cache import ResultCache, content_of
from ptl_prefix.sweeping.search_space import Choice, SearchSpace
from ptl_prefix.sweeping.study_spec import Arm
from ptl_prefix.sweeping.trial import State, Trial
from ptl_prefix.sweeping.trial_store import TrialStore, tried

_MOST_ATTEMPTS = 3
_SAME_ERROR = 3
"""So many first trials with the same exception show that the next would have it, too."""

Freeze = Callable[[Sequence[str]], dict[str, Any]]
"""From overrides to a resolved config; raises `ConfigError`."""
Origin = Literal["new", "interrupted", "promoted"]


@dataclass(frozen=True)
class Job:
    """What one worker does next.

    Args:
        trial: Which trial.
        folder: Its run's folder, with the frozen config in it.
        max_steps: Of its training; 10^9 if the config does not say.
        origin: A new trial, one whose worker is gone, or one that was promoted.
    """

    trial: Trial
    folder: RunFolder
    max_steps: int
    origin: Origin


@dataclass(frozen=True)
class Outcome:
    """How a worker's part of a trial ended.

    Args:
        kind: finished; paused at a rung; pruned; released: stopped, to be gone on with; killed: likewise, but not
            for ever; failed.
        value: The objective, if it finished.
        failure: Which kind of failure.
        error: The exception in a line.
        notes: What is written down with it: seconds, tokens, parameters.
    """

    kind: Literal["finished", "paused", "pruned", "released", "killed", "failed"]
    value: float | None = None
    failure: str | None = None
    error: str | None = None
    notes: Mapping[str, Any] | None = None


class Scheduler:
    """Hands out jobs, and takes back what came of them.

    Args:
        store: What is written down.
        points: Chooses points.
        pruner: Gives trials up.
        freeze: Makes a trial's config.
        known: Results that need not be computed again; `None`: none is taken over.
    """

    def __init__(
        self, store: TrialStore, points: Proposer, pruner: Pruner, freeze: Freeze, known: ResultCache | None
    ) -> None:
        self.store, self.pruner, self.spec = store, pruner, store.spec
        self._points, self._freeze, self._known = points, freeze, known

    def next(self) -> Job | Literal["wait", "done"]:
        """A job; or that there is none now, as others are still at work; or none ever again."""
        with self.store.lock():
            if self.store.stop is not None:
                return "done"
            # Those that have spent the least come first; the confirmation when all of them are done.
            answer = self._next_of_any(sorted(self.spec.arms, key=self._num_counted))
            return self._next_of_any(self.confirming()) if answer == "done" else answer

    def _next_of_any(self, arms: Sequence[Arm]) -> Job | Literal["wait", "done"]:
        waits = False
        for arm in arms:
            answer = self._next_of(arm)
            if isinstance(answer, Job):
                return answer
            waits |= answer == "wait"
        return "wait" if waits else "done"

    def confirming(self) -> list[Arm]:
        """The arm of the best ones, once they are known: the search of every arm has ended."""
        confirmation = self.spec.confirmation
        if confirmation is None or self.is_searching:
            return []
        best = [trial for arm in self.spec.arms for trial in self.store.best(arm.name, confirmation.top_k)]
        candidates, seeds = [f"{trial.arm}/{trial.number}" for trial in best], list(confirmation.seeds)
        if not candidates:
            return []
        space = {
            "candidate": Choice(values=candidates, texts=candidates),
            "seed": Choice(values=seeds, texts=[str(seed) for seed in seeds]),
        }
        return [Arm(name=CONFIRM, overrides=(), space=SearchSpace(space))]

    @property
    def is_searching(self) -> bool:
        """Whether an arm has trials at work, or wants more."""
        return any(self._is_open(arm) for arm in self.spec.arms)

    def all_trials(self) -> list[Trial]:
        """Those of all arms, the confirmation's last."""
        return [trial for arm in (*self.spec.arms, *self.confirming()) for trial in self.store.trials(arm.name)]

    # What is left of one arm

    def _is_open(self, arm: Arm) -> bool:
        trials = self.store.trials(arm.name)
        is_at_work = any(trial.state in ("running", "paused", "interrupted") for trial in trials)
        return is_at_work or self._wants_more(arm, trials)

    def _next_of(self, arm: Arm) -> Job | Literal["wait", "done"]:
        """What was begun comes before what is new; whoever waits for a promotion does so until nothing else is left."""
        job: Job | None = None
        while job is None:
            trials = self.store.trials(arm.name)
            if (left := _first(trials, "interrupted")) is not None:
                job = self._gone_on(left, "interrupted")
            elif (promoted := self._promoted(trials)) is not None:
                job = self._gone_on(promoted, "promoted")
            elif self._wants_more(arm, trials):
                job = self._new(arm, trials)
            elif _first(trials, "running") is not None:
                return "wait"
            elif (farthest := _best_of_too_few(trials)) is not None:
                job = self._gone_on(farthest, "promoted")
            else:
                for trial in trials:
                    if trial.state == "paused":
                        self.store.end(trial, "PRUNED")
                return "done"
        return job

    def _promoted(self, trials: Sequence[Trial]) -> Trial | None:
        """The first of those that wait at a rung which is among the best there by now."""
        return next((trial for trial in trials if trial.state == "paused" and self._is_promoted(trial, trials)), None)

    def _is_promoted(self, trial: Trial, trials: Sequence[Trial]) -> bool:
        assert isinstance(self.pruner, SuccessiveHalving)
        rung = int(trial.notes["paused_at"])
        others = [one.rungs[rung] for one in trials if rung in one.rungs and one.number != trial.number]
        return is_promoted(trial.rungs[rung], others, self.pruner.reduction_factor)

    def _num_counted(self, arm: Arm) -> int:
        return _num_counted(self.store.trials(arm.name))

    def _wants_more(self, arm: Arm, trials: Sequence[Trial]) -> bool:
        """Whether the budget has room, points are left, and there is hope."""
        if arm.space.size is not None and len(tried(trials)) >= arm.space.size:
            return False
        if arm.name != CONFIRM:
            budget, limit = self.spec.budget, self.spec.trials_of(arm)
            spent = [
                (_num_counted(trials), limit),
                (sum(trial.train_s for trial in trials), budget.seconds),
                (sum(trial.tokens for trial in trials), budget.tokens),
            ]
            if any(most is not None and done >= most for done, most in spent):
                return False
        return self.surrender(arm, trials) is None

    def surrender(self, arm: Arm, trials: Sequence[Trial]) -> str | None:
        """Why an arm's search is given up, if it is."""
        failed = [trial for trial in trials if trial.state == "failed"]
        first = [trial for trial in trials if trial.state in ("finished", "pruned", "failed")][:_SAME_ERROR]
        errors = {trial.notes.get("error") for trial in first if trial.state == "failed"}
        if len(first) == _SAME_ERROR and len(errors) == 1 and all(trial.state == "failed" for trial in first):
            return f"its first {_SAME_ERROR} trials all failed alike: {errors.pop()}"
        limit = self.spec.trials_of(arm) or len(trials)
        if len(failed) > self.spec.max_failure_rate * limit:
            return f"{len(failed)} of its trials failed, more than `max_failure_rate` allows of {limit}"
        return None

    # Jobs

    def _new(self, arm: Arm, trials: Sequence[Trial]) -> Job | None:
        """A new trial; `None` if the point was no new one, or needs no work."""
        trial, overrides = self._points.ask(arm, trials)
        if overrides in tried(trials):
            self.store.end(trial, "FAIL", set_aside="asked before")
            return None
        self.store.note(trial, owner=this_process(), overrides=overrides)
        return self._begun(self.store.again(trial), "new")

    def _begun(self, trial: Trial, origin: Origin) -> Job | None:
        """The job of a trial that has no folder yet; `None` if it needs no work."""
        try:
            config = self._frozen(trial.arm, trial.number, trial.overrides)
        except ConfigError as error:
            self.store.end(trial, "FAIL", failure="config", error=" ".join(error.mistakes))
            return None
        content = content_of(config)
        self.store.note(trial, content=content)
        if self._known is not None and (result := self._known.find(content, self.spec.objective)) is not None:
            self.store.note(trial, reused_from=str(result.folder), **result.notes)
            self.store.finish(trial, result.value)
            return None
        write_config(self.store.folder_of(trial), config)
        return self._job(trial, config, origin)

    def _gone_on(self, trial: Trial, origin: Origin) -> Job | None:
        """The job of a trial that was begun, at whichever line its worker died; `None` if it needs no work."""
        if not trial.is_written:
            self.store.end(trial, "FAIL", set_aside="torn")
            return None
        self.store.note(trial, owner=this_process(), paused_at=None)
        folder = self.store.folder_of(trial)
        return self._job(trial, read_config(folder), origin) if folder.config.exists() else self._begun(trial, origin)

    def _job(self, trial: Trial, config: Mapping[str, Any], origin: Origin) -> Job:
        return Job(self.store.again(trial), self.store.folder_of(trial), max_steps_of(config), origin)

    def _frozen(self, arm: str, number: int, overrides: Sequence[str]) -> dict[str, Any]:
        fixed = () if arm == CONFIRM else self.spec.arm(arm).overrides
        config = self._freeze((*self.spec.overrides, *fixed, *overrides))
        name = "-".join(filter(None, (self.spec.name, self.spec.token, arm, str(number))))
        # In W&B, too, they belong together.
        tracking = {**config["tracking"], "group": config["tracking"]["group"] or self.spec.name}
        return {**config, "run_id": name, "study": self.spec.name, "trial": number, "tracking": tracking}

    def close(self, job: Job, outcome: Outcome) -> None:
        """Write down how a worker's part of a trial ended."""
        trial, store = job.trial, self.store
        attempts = trial.notes.get("attempts", 0) + (outcome.kind == "killed")
        with store.lock():
            store.note(trial, **(outcome.notes or {}))
            if outcome.kind == "finished":
                assert outcome.value is not None
                if self._known is not None:
                    self._known.keep(job.folder, trial.notes["content"])
                store.finish(trial, outcome.value)
            elif outcome.kind == "pruned":
                store.end(trial, "PRUNED")
            elif outcome.kind == "failed":
                store.end(trial, "FAIL", failure=outcome.failure, error=outcome.error)
            elif attempts >= _MOST_ATTEMPTS:
                store.end(trial, "FAIL", failure="killed", error=f"killed {attempts} times")
            else:
                store.note(trial, owner=None, attempts=attempts)


def max_steps_of(config: Mapping[str, Any]) -> int:
    """Steps of a config's training; 10^9 if it does not say."""
    steps = int(config["trainer"].get("max_steps") or -1)
    return steps if steps > 0 else 10**9


def _first(trials: Sequence[Trial], state: State) -> Trial | None:
    return next((trial for trial in trials if trial.state == state), None)


def _best_of_too_few(trials: Sequence[Trial]) -> Trial | None:
    """Where so few trials paused that none was among the best of enough: the best of those that got farthest is."""
    paused = [trial for trial in trials if trial.state == "paused"]
    if not paused or _first(trials, "finished") is not None:
        return None
    farthest = max(int(trial.notes["paused_at"]) for trial in paused)
    left = [trial for trial in paused if trial.notes["paused_at"] == farthest]
    return min(left, key=lambda trial: trial.rungs[farthest])


def _num_counted(trials: Sequence[Trial]) -> int:
    """Those that finished or were pruned, and those that still may."""
    return sum(trial.state not in ("failed", "set aside") for trial in trials)
