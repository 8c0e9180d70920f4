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
        name: Empty if it is the only one.
        overrides: What all of its trials have, beside the spec's own.
        space: What they differ in.
    """

    name: str
    overrides: Sequence[str]
    space: SearchSpace


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What each arm may spend. The first limit that is reached ends its search.

    Args:
        trials: Trials that finish or are pruned.
        seconds: Seconds of training, added up.
        tokens: Tokens trained on, added up.
    """

    trials: int | None
    seconds: float | None = None
    tokens: float | None = None


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The best of each arm again, on seeds that the search has not seen.

    Args:
        top_k: How many of each arm.
        seeds: The same for all.
    """

    top_k: int
    seeds: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """One study.

    Args:
        name: The study's.
        token: A random part, which tells this study's runs from those of an earlier one of its name.
        config_name: The primary config of its trials.
        overrides: What all trials have.
        arms: At least one.
        direction: Which way the objective is better.
        objective: A key of a record's metrics.
        budget: Of each arm.
        confirmation: What follows the search; `None`: nothing.
        sampler: The node of its settings, with `_target_`.
        pruner: Likewise.
        max_failure_rate: The share of an arm's trials that may fail before its search is given up.
        workers: How many run at once on a machine.
        threads: CPU threads of each; `None`: the machine's, divided.
        devices: Accelerators, handed to workers in turn; empty: none are handed out.
        warm: Whether trials begin as copies of a process that has imported everything.
        reuse: Whether a result that is known already is taken over.
        code: The fingerprint of the code it was begun with.
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
