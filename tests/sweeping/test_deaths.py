"""A worker dies before any one of its writes, and the next worker resumes the study from what is stored."""

import itertools
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from optuna.storages.journal import JournalFileBackend
from support.played_trials import PlayedProcess, validates, work
from support.study_schedulers import LENGTHS, WORDS, compose, compose_or_raise, make_scheduler, spec

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.sweeping.liveness import Liveness
from ptl_prefix.sweeping.pruners import Percentile, Pruner, SuccessiveHalving
from ptl_prefix.sweeping.result_cache import ResultCache
from ptl_prefix.sweeping.samplers import RandomPoints, Sampler
from ptl_prefix.sweeping.scheduler import ComposeConfig, Scheduler
from ptl_prefix.sweeping.study_spec import Arm, StudySpec


class Died(BaseException):
    """Raised in place of a write to simulate a kill."""


class Mortality:
    """Patches the writes of workers: a dead worker writes nothing more, and is recognised as dead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._life, self._left = 0, 0.0
        for owner, name in ((JournalFileBackend, "append_logs"), (os, "replace")):
            monkeypatch.setattr(owner, name, self._mortal(getattr(owner, name)))
        monkeypatch.setattr(Liveness, "identify", lambda _: {"life": self._life, "beat": 0.0})
        monkeypatch.setattr(
            Liveness, "is_alive", lambda _, owner, beat: owner is not None and owner["life"] == self._life
        )

    def _mortal(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def written(*args: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise Died
            return write(*args)

        return written

    def survives(self, work_in: Callable[[Path], None], folder: Path, writes: float = float("inf")) -> bool:
        """Whether a new worker ends before it has made this many writes."""
        self._life, self._left = self._life + 1, writes
        try:
            work_in(folder)
        except Died:
            return False
        return True


@pytest.fixture
def mortality(monkeypatch: pytest.MonkeyPatch) -> Mortality:
    return Mortality(monkeypatch)


def play(folder: RunFolder, process: PlayedProcess) -> int:
    """Three validations of a loss that goes up and down with the trial's number."""
    return validates(*[float((3 * int(folder.path.name) + 2) % 5)] * 3, every=30)(folder, process)


@dataclass(frozen=True)
class Search:
    """A study and its expected numbers of trials, however often its worker dies."""

    study: StudySpec
    num_ended: int
    num_failed: int = 0
    sampler: Sampler | None = None
    pruner: Pruner | None = None
    compose: ComposeConfig = compose

    def scheduler(self, folder: Path) -> Scheduler:
        cache = ResultCache(folder.parent)
        return make_scheduler(
            folder, self.study, sampler=self.sampler, pruner=self.pruner, cache=cache, compose=self.compose
        )

    def work_in(self, folder: Path) -> None:
        work(self.scheduler(folder), play)


ARMS = [Arm(name=name, overrides=(f"method={name}",), space=LENGTHS) for name in ("a", "b")]
SEARCHES = {
    "one that pauses": Search(
        spec(n_trials=4),
        num_ended=4,
        sampler=RandomPoints(seed=0),
        pruner=SuccessiveHalving(min_steps=30, reduction_factor=2),
    ),
    "one that prunes": Search(
        spec(n_trials=3),
        num_ended=3,
        pruner=Percentile(percentile=50.0, n_startup_trials=1, n_warmup_steps=0),
    ),
    "one that confirms": Search(spec(arms=ARMS, n_trials=1, confirm_top_k=1, confirm_seeds=[1, 2]), num_ended=6),
    "one whose settings contradict": Search(spec(space=WORDS), num_ended=1, num_failed=1, compose=compose_or_raise),
}


@pytest.mark.parametrize("deaths", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "search",
    [
        pytest.param(search, id=name, marks=[] if name == "one that prunes" else pytest.mark.slow)
        for name, search in SEARCHES.items()
    ],
)
def test_no_trial_is_lost_or_repeated_at_whichever_write_a_worker_dies(
    mortality: Mortality, tmp_path: Path, search: Search, deaths: int
) -> None:
    for writes in itertools.count():
        folder = tmp_path / str(writes) / "study"
        survived = [mortality.survives(search.work_in, folder, writes) for _ in range(deaths)]
        assert mortality.survives(search.work_in, folder)

        scheduler = search.scheduler(folder)
        every_trial = scheduler.all_trials()
        arms = {trial.arm for trial in every_trial}
        in_optuna = [trial for arm in arms for trial in scheduler.optuna_study(arm).get_trials()]
        assert all(trial.state.is_finished() for trial in in_optuna), "Optuna's samplers would wait for it"
        trials = [trial for trial in every_trial if trial.state != "discarded"]
        states = Counter(trial.state for trial in trials)
        assert states["finished"] + states["pruned"] == search.num_ended and states["finished"] > 0, writes
        assert len(trials) == search.num_ended + search.num_failed
        assert len({(trial.arm, trial.overrides) for trial in trials}) == len(trials)
        for trial in trials:
            if trial.state != "failed":
                assert read_record(trial.folder(folder) / "record.json").status == trial.state
            if trial.state == "finished":
                assert ResultCache(folder.parent).find(trial.notes["content"], "val/loss") is not None
        if all(survived):
            return
