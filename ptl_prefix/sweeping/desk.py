"""Who does what next: the one place where a study's workers agree.

In: a study's question and its storage. Out: a job for the worker that asks, or that there is none now, or none ever
again. Everything is decided under the study's lock and from what is written down alone, so that any worker may die at
any moment, and any number of them may join: no point is asked twice, none is lost, none runs in two places.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import ConfigError
from ptl_prefix.sweeping.owner import this_process
from ptl_prefix.sweeping.pruners import Pruner, SuccessiveHalving, is_promoted
from ptl_prefix.sweeping.question import Arm, Question
from ptl_prefix.sweeping.results import KnownResults, content_of, mark_pruned
from ptl_prefix.sweeping.samplers import Sampler
from ptl_prefix.sweeping.search_space import Choice, Point, SearchSpace
from ptl_prefix.sweeping.storage import StudyStorage
from ptl_prefix.sweeping.trials import Trial, trial_folder

if TYPE_CHECKING:
    import optuna

CONFIRM = "confirm"
"""The arm in which the best of the others are run again."""

_MOST_ATTEMPTS = 3
_ARMS_APART = 100_003
_SAME_ERROR = 3
"""So many first trials with the same exception show that the next would have it, too."""

Freeze = Callable[[Sequence[str]], dict[str, Any]]
"""From overrides to a resolved config; raises `ConfigError`."""
Stop = Literal["new", "now"]


@dataclass(frozen=True)
class Job:
    """What one worker does next.

    Args:
        trial: Which trial.
        folder: Its run's folder, with the frozen config in it.
        max_steps: Of its training; 10^9 if the config does not say.
        origin: A new trial, one whose worker died, or one that was promoted.
    """

    trial: Trial
    folder: RunFolder
    max_steps: int
    origin: Literal["new", "interrupted", "promoted"]


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


class Desk:
    """Hands out jobs, and takes back what came of them.

    Args:
        folder: The study's folder.
        question: What is asked.
        storage: Where it is written down.
        sampler: Chooses points.
        pruner: Gives trials up.
        freeze: Makes a trial's config.
        known: Results that need not be computed again; `None`: none is taken over.
        max_steps: Of a trial's training, as far as the question says.
    """

    def __init__(
        self,
        folder: Path,
        question: Question,
        storage: StudyStorage,
        sampler: Sampler,
        pruner: Pruner,
        freeze: Freeze,
        known: KnownResults | None,
        max_steps: int,
    ) -> None:
        self.folder, self.question, self._storage = folder, question, storage
        self._sampler, self.pruner, self._freeze, self._known = sampler, pruner, freeze, known
        self._max_steps = max_steps
        self._studies: dict[str, optuna.Study] = {}

    # What is written down

    def study(self, arm: str) -> "optuna.Study":
        """Optuna's study of an arm."""
        import optuna

        if arm not in self._studies:
            self._studies[arm] = optuna.create_study(
                study_name=f"{self.question.name}/{arm}" if arm else self.question.name,
                storage=self._storage.trials,
                direction=self.question.direction,
                load_if_exists=True,
                sampler=optuna.samplers.RandomSampler(seed=0),
            )
        return self._studies[arm]

    def trials(self, arm: str) -> list[Trial]:
        """The trials of an arm by number."""
        return [Trial(arm, frozen) for frozen in self.study(arm).get_trials(deepcopy=False)]

    def all_trials(self) -> list[Trial]:
        """Those of all arms, the confirmation's last."""
        return [trial for arm in (*self.question.arms, *self.confirming()) for trial in self.trials(arm.name)]

    def note(self, trial: Trial, **notes: Any) -> None:
        """Write something down of a trial."""
        for key, value in notes.items():
            self._storage.trials.set_trial_user_attr(trial.frozen._trial_id, key, value)

    def beat(self, trial: Trial) -> None:
        """Say that this process is alive and at work on a trial."""
        self.note(trial, owner=this_process())

    def report(self, trial: Trial, step: int, value: float) -> None:
        """Tell Optuna of a validation."""
        self._storage.trials.set_trial_intermediate_value(trial.frozen._trial_id, step, value)

    def should_prune(self, trial: Trial, max_steps: int) -> bool:
        """What the pruner thinks of a trial's latest validation."""
        frozen = self._storage.trials.get_trial(trial.frozen._trial_id)
        return bool(self.pruner.make(max_steps).prune(self.study(trial.arm), frozen))

    def rungs(self, trial: Trial) -> dict[int, float]:
        """The rungs that a trial has reached by now."""
        return self._again(trial).rungs

    def rungs_of_arm(self, trial: Trial) -> dict[int, dict[int, float]]:
        """Those that the trials of its arm have reached, by their numbers."""
        return {one.number: one.rungs for one in self.trials(trial.arm)}

    def ask_to_stop(self, how: Stop | None) -> None:
        """Tell all workers to take nothing new, or to stop at once; `None`: to go on."""
        with self._storage.lock():
            self.study(self.question.arms[0].name).set_user_attr("stop", how)

    @property
    def stop(self) -> Stop | None:
        """What workers were told."""
        stop: Stop | None = self.study(self.question.arms[0].name).user_attrs.get("stop")
        return stop

    # What is next

    def next(self) -> Job | None | Literal["done"]:
        """A job; `None` if there is none now, as others are still at work; or `"done"`."""
        with self._storage.lock():
            if self.stop is not None:
                return "done"
            waits = False
            for phase in (self._in_turn(), self.confirming):
                for arm in phase() if callable(phase) else phase:
                    job = self._next_of(arm)
                    if isinstance(job, Job):
                        return job
                    waits |= job == "wait"
                if waits:
                    return None
            return "done"

    def _in_turn(self) -> list[Arm]:
        """The arms, the one that has spent the least first."""
        return sorted(self.question.arms, key=lambda arm: self._num_counted(self.trials(arm.name)))

    def confirming(self) -> list[Arm]:
        """The arm of the best ones, once they are known: the search of every arm has ended."""
        confirmation = self.question.confirmation
        if confirmation is None or any(self._is_open(arm) for arm in self.question.arms):
            return []
        candidates = [
            f"{trial.arm}/{trial.number}" for arm in self.question.arms for trial in self.best(arm.name, confirmation.top_k)
        ]
        if not candidates:
            return []
        seeds = list(confirmation.seeds)
        space = {
            "candidate": Choice(values=candidates, texts=candidates),
            "seed": Choice(values=seeds, texts=[str(seed) for seed in seeds]),
        }
        return [Arm(name=CONFIRM, overrides=(), space=SearchSpace(space))]

    def best(self, arm: str, count: int = 1) -> list[Trial]:
        """The best finished trials of an arm."""
        finished = [trial for trial in self.trials(arm) if trial.state == "finished" and trial.value is not None]
        return sorted(finished, key=lambda trial: self.question.sign * (trial.value or 0.0))[:count]

    def _is_open(self, arm: Arm) -> bool:
        """Whether anything of an arm's search is still to be done."""
        trials = self.trials(arm.name)
        return any(trial.state in ("running", "paused", "interrupted") for trial in trials) or self._wants_more(
            arm, trials
        )

    def _next_of(self, arm: Arm) -> Job | Literal["wait", "done"]:
        trials = self.trials(arm.name)
        for trial in trials:
            if trial.state == "interrupted":
                if not trial.is_written:  # its worker died before it had written down what to do
                    self._end(trial, "FAIL", set_aside="torn")
                else:
                    return self._taken_over(trial, "interrupted")
        for trial in trials:
            if trial.state == "paused" and self._is_promoted(trial, trials):
                return self._taken_over(trial, "promoted")
        while self._wants_more(arm, trials):
            if (job := self._new(arm, trials)) is not None:
                return job
            trials = self.trials(arm.name)
        if any(trial.state == "running" for trial in trials):
            return "wait"
        paused = [trial for trial in trials if trial.state == "paused"]
        if paused and not any(trial.state == "finished" for trial in trials):
            # So few trials that none was among the best of enough: the best of those that got farthest is.
            farthest = max(int(trial.notes["paused_at"]) for trial in paused)
            left = [trial for trial in paused if trial.notes["paused_at"] == farthest]
            return self._taken_over(min(left, key=lambda trial: trial.rungs[farthest]), "promoted")
        for trial in paused:
            self._end(trial, "PRUNED", paused_at=None)
        return "done"

    def _taken_over(self, trial: Trial, origin: Literal["interrupted", "promoted"]) -> Job:
        self.note(trial, owner=this_process(), paused_at=None)
        folder = RunFolder(trial_folder(self.folder, trial.arm, trial.number))
        if not folder.config.exists():  # its worker died before it had made the folder
            config = self._frozen(trial.arm, trial.number, trial.overrides)
            write_atomically(folder.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        return self._job(trial, folder, origin)

    def _job(self, trial: Trial, folder: RunFolder, origin: Literal["new", "interrupted", "promoted"]) -> Job:
        config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        max_steps = int(config["trainer"].get("max_steps") or -1)
        return Job(self._again(trial), folder, max_steps if max_steps > 0 else 10**9, origin)

    def _again(self, trial: Trial) -> Trial:
        """A trial as it is written down now."""
        return Trial(trial.arm, self._storage.trials.get_trial(trial.frozen._trial_id))

    # Whether there is more to ask

    @staticmethod
    def _num_counted(trials: Sequence[Trial]) -> int:
        """Those that finished or were pruned, and those that still may."""
        return sum(trial.state not in ("failed", "set aside") for trial in trials)

    def _wants_more(self, arm: Arm, trials: Sequence[Trial]) -> bool:
        if self.surrender(arm, trials):
            return False
        limit = arm.space.size if arm.name == CONFIRM else self.question.trials_of(arm)
        if limit is not None and self._num_counted(trials) >= limit:
            return False
        if arm.space.size is not None and len(_tried(trials)) >= arm.space.size:
            return False
        budget = self.question.budget
        if arm.name != CONFIRM:
            if budget.seconds is not None and sum(trial.train_s for trial in trials) >= budget.seconds:
                return False
            if budget.tokens is not None and sum(trial.tokens for trial in trials) >= budget.tokens:
                return False
        return True

    def surrender(self, arm: Arm, trials: Sequence[Trial] | None = None) -> str | None:
        """Why an arm's search is given up, if it is."""
        trials = self.trials(arm.name) if trials is None else trials
        failed = [trial for trial in trials if trial.state == "failed"]
        first = [trial for trial in trials if trial.state in ("finished", "pruned", "failed")][:_SAME_ERROR]
        errors = {trial.notes.get("error") for trial in first}
        if len(first) == _SAME_ERROR and len(errors) == 1 and all(trial in failed for trial in first):
            return f"its first {_SAME_ERROR} trials all failed alike: {errors.pop()}"
        limit = self.question.trials_of(arm) or len(trials)
        if len(failed) > self.question.max_failure_rate * limit:
            return f"{len(failed)} of its trials failed, more than `max_failure_rate` allows of {limit}"
        return None

    def _is_promoted(self, trial: Trial, trials: Sequence[Trial]) -> bool:
        assert isinstance(self.pruner, SuccessiveHalving)
        rung = int(trial.notes["paused_at"])
        others = [one.rungs[rung] for one in trials if rung in one.rungs and one.number != trial.number]
        return is_promoted(trial.rungs[rung], others, self.pruner.reduction_factor)

    # A new point

    def _new(self, arm: Arm, trials: Sequence[Trial]) -> Job | None:
        """A new trial; `None` if the point was no new one, or needs no work."""
        study = self._asking(arm, trials)
        asked = study.ask(fixed_distributions=arm.space.distributions())
        (trial,) = (one for one in self.trials(arm.name) if one.number == asked.number)
        overrides = self._overrides(arm, asked.params)
        if overrides in _tried(trials):
            self._end(trial, "FAIL", set_aside="asked before")
            return None
        self.note(trial, owner=this_process(), overrides=overrides)
        try:
            config = self._frozen(arm.name, trial.number, overrides)
        except ConfigError as error:
            self._end(trial, "FAIL", failure="config", error=" ".join(error.mistakes))
            return None
        content = content_of(config)
        self.note(trial, content=content)
        if self._known is not None and (result := self._known.find(content, self.question.objective)) is not None:
            self.note(trial, reused_from=str(result.folder), **result.notes)
            self.study(arm.name).tell(trial.number, result.value)
            return None
        folder = RunFolder(trial_folder(self.folder, arm.name, trial.number))
        write_atomically(folder.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        return self._job(trial, folder, "new")

    def _asking(self, arm: Arm, trials: Sequence[Trial]) -> "optuna.Study":
        """A study that will ask for a new point: one that was never asked, wherever points can be listed."""
        import optuna

        study = self.study(arm.name)
        since_last = sum(1 for _ in itertools.takewhile(lambda one: one.state == "set aside", reversed(trials)))
        is_stuck = arm.space.size is not None and since_last > 0
        if arm.name == CONFIRM or self._sampler.lists_points or is_stuck:
            study.enqueue_trial(dict(next(self._untried(arm, trials))))
            return study
        # Arms side by side must not draw the same numbers.
        place = [one.name for one in self.question.arms].index(arm.name)
        study.sampler = self._sampler.make(len(trials) + _ARMS_APART * place)
        return optuna.load_study(
            study_name=study.study_name, storage=self._storage.trials, sampler=study.sampler, pruner=self.pruner.make(self._max_steps)
        )

    def _untried(self, arm: Arm, trials: Sequence[Trial]) -> Iterator[Point]:
        """The points that were never asked, in the order of the sampler."""
        tried = _tried(trials)
        points = [point for point in arm.space.points() if self._overrides(arm, point) not in tried]
        if arm.name != CONFIRM and (self._sampler.shuffles() or not self._sampler.lists_points):
            # Of all points, not of those that are left: the order stays the same as they are taken.
            order = {self._overrides(arm, point): place for place, point in enumerate(_shuffled(arm, self._sampler.seed))}
            points.sort(key=lambda point: order[self._overrides(arm, point)])
        return iter(points)

    def _overrides(self, arm: Arm, point: Point) -> tuple[str, ...]:
        """What a point stands for. That of a confirmation is what its candidate was, with another seed."""
        if arm.name != CONFIRM:
            return arm.space.overrides(point)
        name, _, number = str(point["candidate"]).rpartition("/")
        (trial,) = (one for one in self.trials(name) if one.number == int(number))
        own = [text for text in trial.overrides if not text.startswith("seed=")]
        return (*self.question.arm(name).overrides, *own, f"seed={point['seed']}")

    def _frozen(self, arm: str, number: int, overrides: Sequence[str]) -> dict[str, Any]:
        fixed = () if arm == CONFIRM else self.question.arm(arm).overrides
        config = self._freeze((*self.question.overrides, *fixed, *overrides))
        name = "-".join(filter(None, (self.question.name, self.question.token, arm, str(number))))
        return {**config, "run_id": name, "study": self.question.name, "trial": number}

    # What came of it

    def close(self, job: Job, outcome: Outcome) -> None:
        """Write down how a worker's part of a trial ended."""
        trial = job.trial
        with self._storage.lock():
            self.note(trial, **(outcome.notes or {}))
            if outcome.kind == "finished":
                assert outcome.value is not None
                self.study(trial.arm).tell(trial.number, outcome.value)
                if self._known is not None:
                    self._known.keep(job.folder, trial.notes["content"])
            elif outcome.kind == "pruned":
                self._end(trial, "PRUNED")
            elif outcome.kind == "failed":
                self._end(trial, "FAIL", failure=outcome.failure, error=outcome.error)
            elif outcome.kind == "killed" and (attempts := trial.notes.get("attempts", 1)) >= _MOST_ATTEMPTS:
                self._end(trial, "FAIL", failure="killed", error=f"killed {attempts} times")
            else:
                attempts = trial.notes.get("attempts", 1) + (outcome.kind == "killed")
                self.note(trial, owner=None, attempts=attempts)

    def _end(self, trial: Trial, state: Literal["PRUNED", "FAIL"], **notes: Any) -> None:
        from optuna.trial import TrialState

        self.note(trial, **notes)
        self.study(trial.arm).tell(trial.number, state=TrialState[state])
        if state == "PRUNED":
            mark_pruned(RunFolder(trial_folder(self.folder, trial.arm, trial.number)))


def _tried(trials: Sequence[Trial]) -> set[tuple[str, ...]]:
    """The points that were asked, whatever became of them."""
    return {trial.overrides for trial in trials if trial.is_written and trial.state != "set aside"}


def _shuffled(arm: Arm, seed: int) -> list[Point]:
    points = list(arm.space.points())
    random.Random(seed).shuffle(points)
    return points
