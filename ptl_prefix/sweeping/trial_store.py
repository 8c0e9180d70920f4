"""The state of a study in Optuna's storage, which all of its workers read and write.

In: a study's specification and its storage. Out: snapshots of the trials of each arm, and writes to them. It decides
nothing; see `scheduler.py`.
"""

import copy
import operator
import secrets
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.liveness import Liveness
from ptl_prefix.sweeping.result_cache import mark_pruned
from ptl_prefix.sweeping.storage import StudyStorage
from ptl_prefix.sweeping.study_spec import StudySpec
from ptl_prefix.sweeping.trial import DEPENDS_ON_LIVENESS, Trial, beat_key, best_of, lease_of, read_trial, trial_folder

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

StopRequest = Literal["new", "now"]
"""`new`: workers start no new trial. `now`: they also stop the trials that run."""


_TOKEN = "token"
"""The attribute of Optuna's study that says of which of our studies it is."""


class TrialStore:
    """The trials of one study.

    Args:
        folder: The study's folder.
        spec: The study's specification.
        storage: Optuna's storage of the trials, with the lock that the workers share.
        liveness: Says who this worker is and which others are alive; `None` asks the operating system.
    """

    def __init__(self, folder: Path, spec: StudySpec, storage: StudyStorage, liveness: Liveness | None = None) -> None:
        self.folder, self.spec, self._storage = folder, spec, storage
        self._liveness = liveness or Liveness()
        self._studies: dict[str, optuna.Study] = {}
        self._read: dict[str, _Snapshots] = {}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """The lock under which a worker reads the study and decides what is next."""
        with self._storage.lock():
            yield

    def optuna_study(self, arm: str) -> "optuna.Study":
        """Optuna's study of an arm."""
        import optuna

        if arm not in self._studies:
            self._studies[arm] = optuna.create_study(
                study_name=f"{self.spec.name}/{arm}" if arm else self.spec.name,
                storage=self._storage.trials,
                direction=self.spec.direction,
                load_if_exists=True,
                # Never used: see `sampled_study`.
                sampler=optuna.samplers.RandomSampler(seed=0),
            )
            _require_own(self._studies[arm], self.spec.token)
            _name_metric(self._studies[arm], self.spec.objective)
        return self._studies[arm]

    def sampled_study(self, arm: str, sampler: Any, pruner: Any) -> "optuna.Study":
        """The same study with a sampler, and with the pruner that tells the sampler Hyperband's brackets."""
        # A copy, as a study that is loaded anew has read nothing yet: of a database it would read every trial again.
        study = copy.copy(self.optuna_study(arm))
        study.sampler, study.pruner = sampler, pruner
        return study

    def optuna_trial(self, trial: Trial) -> "FrozenTrial":
        """Optuna's own view of a trial, as it is stored now."""
        frozen: FrozenTrial = self._storage.trials.get_trial(trial.trial_id)
        return frozen

    def trials(self, arm: str) -> list[Trial]:
        """The trials of an arm by number."""
        snapshots = self._read.setdefault(arm, _Snapshots(arm, self._liveness))
        return snapshots.of(self.optuna_study(arm).get_trials(deepcopy=False))

    def trial(self, arm: str, trial_id: int) -> Trial:
        """A snapshot of the trial with an id of Optuna's."""
        return read_trial(arm, self._storage.trials.get_trial(trial_id), self._liveness)

    def reload(self, trial: Trial) -> Trial:
        """A new snapshot of a trial."""
        return self.trial(trial.arm, trial.trial_id)

    def run_folder(self, trial: Trial) -> RunFolder:
        """The folder of a trial's own run."""
        return RunFolder(trial_folder(self.folder, trial.arm, trial.number))

    def best(self, arm: str, count: int = 1) -> list[Trial]:
        """The best finished trials of an arm."""
        return best_of(self.trials(arm), self.spec.sign)[:count]

    def note(self, trial: Trial, **notes: Any) -> None:
        """Store user attributes of a trial."""
        for key, value in notes.items():
            self._storage.trials.set_trial_user_attr(trial.trial_id, key, value)

    def take(self, trial: Trial, **notes: Any) -> None:
        """Store that this process works on a trial from now on, under a new lease; only under the lock."""
        self.note(trial, owner={**self._liveness.identify(), "lease": secrets.token_hex(4)}, **notes)

    def has_lease(self, trial: Trial) -> bool:
        """Whether the lease in a snapshot still holds: no other worker took the trial since, and it has not ended."""
        now = self.optuna_trial(trial)
        return not now.state.is_finished() and lease_of(now.user_attrs) == trial.lease

    def heartbeat(self, trial: Trial) -> bool:
        """Store that this process is alive and works on a trial.

        Returns:
            False if the trial's lease does not hold any more; then nothing is stored.
        """
        return self.note_under_lease(trial, **{beat_key(trial.lease): self._liveness.clock()})

    def note_under_lease(self, trial: Trial, **notes: Any) -> bool:
        """Store user attributes of a trial unless its lease does not hold any more; whether it does."""
        return self._write_under_lease(trial, lambda: self.note(trial, **notes))

    def report(self, trial: Trial, step: int, value: float) -> bool:
        """Store an intermediate value, as Optuna does.

        Returns:
            False if the trial's lease does not hold any more; then nothing is stored.
        """
        store = self._storage.trials.set_trial_intermediate_value
        return self._write_under_lease(trial, lambda: store(trial.trial_id, step, value))

    def _write_under_lease(self, trial: Trial, write: Callable[[], None]) -> bool:
        """Write without the lock. The trial may be taken between check and write: both writes are harmless then."""
        from optuna.exceptions import UpdateFinishedTrialError

        if not self.has_lease(trial):
            return False
        try:
            write()
        except UpdateFinishedTrialError:  # the worker that took it has ended it
            return False
        return True

    def finish(self, trial: Trial, value: float) -> None:
        """Store that a trial finished, and its objective."""
        self.optuna_study(trial.arm).tell(trial.number, value)

    def end(self, trial: Trial, state: Literal["PRUNED", "FAIL"], **notes: Any) -> None:
        """Store that a trial ended without a result."""
        from optuna.trial import TrialState

        # The state is written last: if the worker dies before that, the trial is still open, and the next one ends it.
        self.note(trial, **notes)
        if state == "PRUNED":
            mark_pruned(self.run_folder(trial))
        elif self.optuna_trial(trial).state == TrialState.WAITING:
            # The worker died between enqueueing this trial and starting it. Optuna ends only trials that have started.
            self._storage.trials.set_trial_state_values(trial.trial_id, TrialState.RUNNING)
        self.optuna_study(trial.arm).tell(trial.number, state=TrialState[state])

    def request_stop(self, request: StopRequest | None) -> None:
        """Ask all workers of the study to stop; `None` withdraws the request."""
        with self.lock():
            self.optuna_study(self.spec.arms[0].name).set_user_attr("stop", request)

    @property
    def stop_request(self) -> StopRequest | None:
        """The stop request to all workers; `None` without one."""
        request: StopRequest | None = self.optuna_study(self.spec.arms[0].name).user_attrs.get("stop")
        return request


class _Snapshots:
    """The trials of an arm as they were when they were last read: of thousands, only a few are read anew each time.

    Args:
        arm: Name of the arm.
        liveness: Says which workers are alive.
    """

    def __init__(self, arm: str, liveness: Liveness) -> None:
        self._arm, self._liveness = arm, liveness
        self._stored: list[FrozenTrial] = []
        self._trials: list[Trial] = []
        self._open: set[int] = set()
        """Places of the trials whose state depends on whether their worker is alive."""
        self._change = threading.Lock()

    def of(self, stored: list["FrozenTrial"]) -> list[Trial]:
        """Snapshots of these trials, of which none was ever removed, with the states of now."""
        with self._change:
            # Optuna replaces a trial that changes by a copy, so the same object has not changed since it was read.
            changed = [place for place, differs in enumerate(map(operator.is_not, self._stored, stored)) if differs]
            for place in (*changed, *range(len(self._stored), len(stored))):
                trial = read_trial(self._arm, stored[place], self._liveness)
                self._trials[place : place + 1] = [trial]
                if trial.state in DEPENDS_ON_LIVENESS:
                    self._open.add(place)
                else:
                    self._open.discard(place)
            self._stored = stored
            trials = self._trials.copy()
            for place in self._open:
                trials[place] = trials[place].as_of_now(self._liveness)
            return trials


def _require_own(study: "optuna.Study", token: str) -> None:
    """Require that a study of a database is the one of this specification, and not one that had its name before."""
    study_token = study.user_attrs.get(_TOKEN)
    if study_token is None:  # it is new, or was created by an earlier version
        study.set_user_attr(_TOKEN, token)
        study_token = study.user_attrs[_TOKEN]
    if study_token != token:
        raise SweepError(
            f"A study must have a name of its own in its storage, but another study named {study.study_name!r} has its "
            "trials there; choose another hydra.sweeper.study_name, or another hydra.sweeper.storage."
        )


def _name_metric(study: "optuna.Study", objective: str) -> None:
    """Store the objective's name, which optuna-dashboard shows in place of "Objective Value"."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if study.metric_names is None:
            study.set_metric_names([objective])


def tried_points(trials: Sequence[Trial]) -> set[tuple[str, ...]]:
    """The overrides of all trials that were started, in whatever state they are."""
    return {trial.overrides for trial in trials if trial.has_point and trial.state != "discarded"}
