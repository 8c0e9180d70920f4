"""What a sweep asks, whole and frozen: `study.yaml` in the study's folder.

In: settings and search spaces, read once when the study begins. Out: `StudySpec`, the same for every worker that joins
it, on whatever machine and however much later. What it leaves open are the points, which the sampler chooses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.search_space import SearchSpace

STUDY_FILE = "study.yaml"

SCHEMA_VERSION = 1
Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One of the things that are searched side by side, each with the whole budget: a method, for instance.

    Args:
        name: Name of the arm; empty if it is the only one.
        overrides: Overrides of all trials of the arm, in addition to the study's.
        space: Search space of the arm.
    """

    name: str
    overrides: Sequence[str]
    space: SearchSpace


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What each arm may spend. The first limit that is reached ends its search.

    Args:
        trials: Number of trials that finish or are pruned; `None` sets no limit.
        seconds: Seconds of training, added up over trials; `None` sets no limit.
        tokens: Tokens trained on, added up over trials; `None` sets no limit.
    """

    trials: int | None
    seconds: float | None = None
    tokens: float | None = None


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The best of each arm again, on seeds that the search has not seen.

    Args:
        top_k: Number of best trials of each arm that are repeated.
        seeds: Seeds of the repetitions, the same for all arms.
    """

    top_k: int
    seeds: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """One study.

    Args:
        name: Name of the study.
        token: Random text that tells this study's runs from those of an earlier study of the same name.
        config_name: Primary config of the trials.
        overrides: Overrides of all trials.
        arms: Arms of the study, at least one.
        direction: Whether a smaller or a larger objective is better.
        objective: Metric of a run's record that is optimised.
        budget: Budget of each arm.
        confirmation: Repetition of the best trials on other seeds after the search; `None` repeats none.
        sampler: Config of the sampler, with `_target_`.
        pruner: Config of the pruner, with `_target_`.
        max_failure_rate: Share of failed trials above which an arm is given up.
        workers: Number of workers on each machine.
        threads: CPU threads of each worker; `None` divides the machine's.
        devices: Indices of accelerators, assigned to workers in turn; empty assigns none.
        warm: Whether trials are forked from a process that has already imported everything.
        reuse: Whether the result of an earlier trial with the same config, code and data is reused.
        code: SHA-256 of the code that the study began with.
    """

    name: str
    token: str
    config_name: str
    overrides: Sequence[str]
    arms: Sequence[Arm]
    direction: Direction
    objective: str
    budget: Budget
    confirmation: Confirmation | None
    sampler: Mapping[str, Any]
    pruner: Mapping[str, Any]
    max_failure_rate: float
    workers: int
    threads: int | None
    devices: Sequence[int]
    warm: bool
    reuse: bool
    code: str

    def arm(self, name: str) -> Arm:
        """The arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def sign(self) -> int:
        """What makes a value less when it is better."""
        return 1 if self.direction == "minimize" else -1

    @property
    def most_confirmed(self) -> int:
        """Trials of the confirmation, at most: fewer where an arm has found fewer than are to be confirmed."""
        if self.confirmation is None:
            return 0
        return len(self.arms) * self.confirmation.top_k * len(self.confirmation.seeds)

    def trials_of(self, arm: Arm) -> int | None:
        """The most trials that an arm can have: its budget, or every point there is."""
        limits = [limit for limit in (self.budget.trials, arm.space.size) if limit is not None]
        return min(limits) if limits else None

    def write(self, folder: Path) -> None:
        """Keep it in the study's folder, whole or not at all."""
        document = {
            "schema_version": SCHEMA_VERSION,
            **{key: value for key, value in vars(self).items() if key not in ("arms", "budget", "confirmation")},
            "budget": vars(self.budget),
            "confirmation": None if self.confirmation is None else vars(self.confirmation),
            "arms": [
                {"name": arm.name, "overrides": list(arm.overrides), "space": arm.space.as_document()}
                for arm in self.arms
            ],
        }
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in document.items()}
        write_atomically(folder / STUDY_FILE, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))

    @classmethod
    def read(cls, folder: Path) -> "StudySpec":
        """The spec of a study that has begun.

        Raises:
            SweepError: If there is none, or it cannot be read.
        """
        path = folder / STUDY_FILE
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
            version = document.pop("schema_version")
            if version != SCHEMA_VERSION:
                raise ValueError(f"it has version {version}, and this package reads {SCHEMA_VERSION}")
            arms = [
                Arm(name=arm["name"], overrides=arm["overrides"], space=SearchSpace.from_document(arm["space"]))
                for arm in document.pop("arms")
            ]
            confirmation = document.pop("confirmation")
            return cls(
                arms=arms,
                budget=Budget(**document.pop("budget")),
                confirmation=None if confirmation is None else Confirmation(**confirmation),
                **document,
            )
        except FileNotFoundError as error:
            raise SweepError(f"A study must be a folder with {STUDY_FILE}, but {folder} has none.") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
            raise SweepError(f"A study's spec must be readable, but {path} is not: {error}") from error
