"""A worker that dies before one of its writes, whichever, and the next one, which goes on with what it finds."""

import itertools
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from optuna.storages.journal import JournalFileBackend
from support.played_trials import Played, validates, work
from support.study_schedulers import LENGTHS, WORDS, freeze, freeze_or_clash, scheduler, spec

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.sweeping.pruners import Percentile, Pruner, SuccessiveHalving
from ptl_prefix.sweeping.result_cache import ResultCache
from ptl_prefix.sweeping.samplers import RandomPoints, Sampler
from ptl_prefix.sweeping.scheduler import Freeze, Scheduler
from ptl_prefix.sweeping.study_spec import Arm, Budget, Confirmation, StudySpec


class Died(BaseException):
    """What a kill looks like from inside."""


class Mortality:
    """Stands between workers and the disk: who has died writes nothing more, and is known to be dead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._life, self._left = 0, 0.0
        for owner, name in ((JournalFileBackend, "append_logs"), (os, "replace")):
            monkeypatch.setattr(owner, name, self._mortal(getattr(owner, name)))
        for room in ("scheduler", "store"):
            monkeypatch.setattr(f"ptl_prefix.sweeping.{room}.this_process", lambda: {"life": self._life})
        monkeypatch.setattr(
            "ptl_prefix.sweeping.trial.is_alive", lambda owner: owner is not None and owner["life"] == self._life
        )

    def _mortal(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def written(*args: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise Died
            return write(*args)

        return written

    def survives(self, work_in: Callable[[Path], None], folder: Path, writes: float = float("inf")) -> bool:
        """Whether a new worker comes to its end with so many writes."""
        self._life, self._left = self._life + 1, writes
        try:
            work_in(folder)
        except Died:
            return False
        return True


@pytest.fixture
def mortality(monkeypatch: pytest.MonkeyPatch) -> Mortality:
    return Mortality(monkeypatch)


def play(folder: RunFolder, process: Played) -> int:
    """Three validations of a loss that goes up and down with the trial's number."""
    return validates(*[float((3 * int(folder.path.name) + 2) % 5)] * 3, every=30)(folder, process)


@dataclass(frozen=True)
class Search:
    """A study, and what must have come of it, however often its worker died."""

    asked: StudySpec
    num_ended: int
    num_failed: int = 0
    sampler: Sampler | None = None
    pruner: Pruner | None = None
    freeze: Freeze = freeze

    def scheduler(self, folder: Path) -> Scheduler:
        known = ResultCache(folder.parent)
        return scheduler(folder, self.asked, sampler=self.sampler, pruner=self.pruner, known=known, freeze=self.freeze)

    def work_in(self, folder: Path) -> None:
        work(self.scheduler(folder), play)


ARMS = [Arm(name=name, overrides=(f"method={name}",), space=LENGTHS) for name in ("a", "b")]
SEARCHES = {
    "one that pauses": Search(
        spec(budget=Budget(trials=4)),
        num_ended=4,
        sampler=RandomPoints(seed=0),
        pruner=SuccessiveHalving(min_steps=30, reduction_factor=2),
    ),
    "one that prunes": Search(
        spec(budget=Budget(trials=3)),
        num_ended=3,
        pruner=Percentile(percentile=50.0, n_startup_trials=1, n_warmup_steps=0),
    ),
    "one that confirms": Search(
        spec(arms=ARMS, budget=Budget(trials=1), confirmation=Confirmation(top_k=1, seeds=[1, 2])), num_ended=6
    ),
    "one whose settings clash": Search(spec(space=WORDS), num_ended=1, num_failed=1, freeze=freeze_or_clash),
}


@pytest.mark.parametrize("deaths", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_at_whichever_write_a_worker_dies_nothing_is_lost_and_nothing_twice(
    mortality: Mortality, tmp_path: Path, search: Search, deaths: int
) -> None:
    for writes in itertools.count():
        folder = tmp_path / str(writes) / "study"
        survived = [mortality.survives(search.work_in, folder, writes) for _ in range(deaths)]
        assert mortality.survives(search.work_in, folder)

        asked = search.scheduler(folder).all_trials()
        assert all(trial.frozen.state.is_finished() for trial in asked), "Optuna's samplers would wait for it"
        trials = [trial for trial in asked if trial.state != "set aside"]
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
