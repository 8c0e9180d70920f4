"""What a study's workers write down, and read of each other: Optuna's storage in our own words.

In: a spec and its storage. Out: trials by arm, and notes of them. Nothing is decided here.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.sweeping.liveness import this_process
from ptl_prefix.sweeping.result_cache import mark_pruned
from ptl_prefix.sweeping.storage import StudyStorage
from ptl_prefix.sweeping.study_spec import StudySpec
from ptl_prefix.sweeping.trial import Trial, best_of, trial_folder

if TYPE_CHECKING:
    import optuna

Stop = Literal["new", "now"]
"""What workers can be told: to take nothing new, or to stop what runs, too."""


class TrialStore:
    """The trials of one study.

    Args:
        folder: The study's folder.
        spec: What is asked.
        storage: Where it is written down.
    """

    def __init__(self, folder: Path, spec: StudySpec, storage: StudyStorage) -> None:
        self.folder, self.spec, self._storage = folder, spec, storage
        self._studies: dict[str, optuna.Study] = {}

    def lock(self) -> AbstractContextManager[None]:
        """Keep every other worker from deciding."""
        return self._storage.lock()

    def study(self, arm: str) -> "optuna.Study":
        """Optuna's study of an arm."""
        import optuna

        if arm not in self._studies:
            self._studies[arm] = optuna.create_study(
                study_name=f"{self.spec.name}/{arm}" if arm else self.spec.name,
                storage=self._storage.trials,
                direction=self.spec.direction,
                load_if_exists=True,
                # Never asked: points are drawn by samplers that are made for each.
                sampler=optuna.samplers.RandomSampler(seed=0),
            )
        return self._studies[arm]

    def asking(self, arm: str, sampler: Any, pruner: Any) -> "optuna.Study":
        """The same study with a sampler of its own, and the pruner by which Hyperband tells its brackets apart."""
        import optuna

        return optuna.load_study(
            study_name=self.study(arm).study_name, storage=self._storage.trials, sampler=sampler, pruner=pruner
        )

    def trials(self, arm: str) -> list[Trial]:
        """The trials of an arm by number."""
        return [Trial(arm, frozen) for frozen in self.study(arm).get_trials(deepcopy=False)]

    def again(self, trial: Trial) -> Trial:
        """A trial as it is written down now."""
        return Trial(trial.arm, self._storage.trials.get_trial(trial.frozen._trial_id))

    def folder_of(self, trial: Trial) -> RunFolder:
        """Where a trial's run lies, if it has one of its own."""
        return RunFolder(trial_folder(self.folder, trial.arm, trial.number))

    def best(self, arm: str, count: int = 1) -> list[Trial]:
        """The best finished trials of an arm."""
        return best_of(self.trials(arm), self.spec.sign)[:count]

    def note(self, trial: Trial, **notes: Any) -> None:
        """Write something down of a trial."""
        for key, value in notes.items():
            self._storage.trials.set_trial_user_attr(trial.frozen._trial_id, key, value)

    def beat(self, trial: Trial) -> None:
        """Say that this process is alive and at work on a trial."""
        self.note(trial, owner=this_process())

    def report(self, trial: Trial, step: int, value: float) -> None:
        """Write down a validation, as Optuna keeps them."""
        self._storage.trials.set_trial_intermediate_value(trial.frozen._trial_id, step, value)

    def finish(self, trial: Trial, value: float) -> None:
        """Write down that a trial came to its end."""
        self.study(trial.arm).tell(trial.number, value)

    def end(self, trial: Trial, state: Literal["PRUNED", "FAIL"], **notes: Any) -> None:
        """Write down that a trial will not come to its end."""
        from optuna.trial import TrialState

        # The study's own word comes last: a worker that dies before it has not ended the trial, and the next one does.
        self.note(trial, **notes)
        if state == "PRUNED":
            mark_pruned(self.folder_of(trial))
        elif trial.frozen.state == TrialState.WAITING:
            # Its worker died before it had begun what it had just asked for; Optuna ends only what has begun.
            self._storage.trials.set_trial_state_values(trial.frozen._trial_id, TrialState.RUNNING)
        self.study(trial.arm).tell(trial.number, state=TrialState[state])

    def tell_to_stop(self, how: Stop | None) -> None:
        """Tell all workers to stop; `None`: to go on."""
        with self.lock():
            self.study(self.spec.arms[0].name).set_user_attr("stop", how)

    @property
    def stop(self) -> Stop | None:
        """What workers were told."""
        stop: Stop | None = self.study(self.spec.arms[0].name).user_attrs.get("stop")
        return stop


def tried(trials: Sequence[Trial]) -> set[tuple[str, ...]]:
    """The points that were asked, whatever became of them."""
    return {trial.overrides for trial in trials if trial.is_written and trial.state != "set aside"}
