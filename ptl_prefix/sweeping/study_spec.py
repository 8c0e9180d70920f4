"""The specification of one study, kept in `study.yaml` in the study's folder.

In: the sweeper's settings and the parsed search spaces, once, when the study is created. Out: `StudySpec`, which every
worker reads, on any machine and at any later time. It fixes everything except the points, which the sampler chooses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.search_space import SearchSpace
from ptl_prefix.sweeping.sweeper_settings import Direction, StudySettings

STUDY_FILE = "study.yaml"
SCHEMA_VERSION = 1

_IN_FILE = {"n_jobs": "workers"}
_BUDGET_IN_FILE = {"n_trials": "trials", "budget_s": "seconds", "budget_tokens": "tokens"}
_CONFIRMATION_IN_FILE = {"confirm_top_k": "top_k", "confirm_seeds": "seeds", "confirm_overrides": "overrides"}
"""Settings whose key in `study.yaml` differs from the setting's name."""

_OF_CLUSTERS = {"executor": "local", "num_cpus": None, "num_gpus": None, "ray_address": "auto"}
"""Settings that a file lacks where they have these values, as every file of an earlier version does."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One of several search spaces that are searched side by side, for example one per method.

    Args:
        name: Name of the arm; empty if it is the only one.
        overrides: Overrides that all trials of the arm share, in addition to the study's own.
        space: The arm's search space.
    """

    name: str
    overrides: Sequence[str]
    space: SearchSpace


@dataclass(frozen=True, kw_only=True)
class StudySpec(StudySettings):
    """The specification of one study: its settings, and the following.

    Args:
        direction: Whether the objective is minimized or maximized, which its metric decides.
        name: Name of the study.
        token: Random part of the trials' run ids, which distinguishes them from those of an earlier study of the name.
        config_name: Primary config of the trials.
        overrides: Overrides that all trials share.
        arms: Search spaces; at least one.
        code: Fingerprint of the code with which the study was created.
    """

    direction: Direction
    name: str
    token: str
    config_name: str
    overrides: Sequence[str]
    arms: Sequence[Arm]
    code: str

    def arm(self, name: str) -> Arm:
        """The arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def sign(self) -> int:
        """The factor by which a better objective becomes a smaller number."""
        return 1 if self.direction == "minimize" else -1

    @property
    def max_confirmations(self) -> int:
        """The most trials that the confirmation can have; fewer where an arm finds fewer than `confirm_top_k`."""
        return len(self.arms) * self.confirm_top_k * len(self.confirm_seeds)

    def max_trials(self, arm: Arm) -> int | None:
        """The most trials that an arm can have: `n_trials`, or the size of its space; `None` without a limit."""
        limits = [limit for limit in (self.n_trials, arm.space.size) if limit is not None]
        return min(limits) if limits else None

    def resumed_as(self, given: "StudySpec") -> tuple["StudySpec", list[str]]:
        """This study with the changeable settings of another specification of it.

        Returns:
            The specification to resume with, and the keys of `study.yaml` in which the two still differ.
        """
        resumed = replace(self, **given.changeable_settings())
        ours, theirs = resumed.as_document(), given.as_document()
        return resumed, [key for key in ours if key not in ("token", "code") and ours[key] != theirs[key]]

    def as_document(self) -> dict[str, Any]:
        """The content of `study.yaml`."""
        settings = {key: list(one) if isinstance(one, tuple) else one for key, one in self.study_settings().items()}
        for name, value in _OF_CLUSTERS.items():
            if settings[name] == value:
                del settings[name]
        budget = {key: settings.pop(name) for name, key in _BUDGET_IN_FILE.items()}
        confirmation = {key: settings.pop(name) for name, key in _CONFIRMATION_IN_FILE.items()}
        if not confirmation["overrides"]:
            del confirmation["overrides"]  # a file of an older version has none
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "token": self.token,
            "config_name": self.config_name,
            "overrides": list(self.overrides),
            **{_IN_FILE.get(name, name): value for name, value in settings.items()},
            "code": self.code,
            "budget": budget,
            "confirmation": confirmation if self.confirm_top_k else None,
            "arms": [
                {"name": arm.name, "overrides": list(arm.overrides), "space": arm.space.as_document()}
                for arm in self.arms
            ],
        }

    def write(self, folder: Path) -> None:
        """Write `study.yaml` into the study's folder, whole or not at all."""
        text = yaml.safe_dump(self.as_document(), sort_keys=False, allow_unicode=True)
        write_atomically(folder / STUDY_FILE, text)

    @classmethod
    def read(cls, folder: Path) -> "StudySpec":
        """The specification of an existing study.

        Raises:
            SweepError: If the folder has no `study.yaml`, or one that cannot be read.
        """
        path = folder / STUDY_FILE
        try:
            return _from_document(yaml.safe_load(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise SweepError(f"A study must be a folder with {STUDY_FILE}, but {folder} has none.") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
            fact = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise SweepError(f"A study's {STUDY_FILE} must be readable, but {path} is not: {fact}") from error


def _from_document(document: Any) -> StudySpec:
    if not isinstance(document, dict):
        raise ValueError("it is no mapping")
    version = document.pop("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(f"it has version {version}, and this package reads {SCHEMA_VERSION}")
    arms = [
        Arm(name=arm["name"], overrides=arm["overrides"], space=SearchSpace.from_document(arm["space"]))
        for arm in document.pop("arms")
    ]
    budget = _named(document.pop("budget"), _BUDGET_IN_FILE)
    confirmation: dict[str, Any] = {"overrides": []} | (document.pop("confirmation") or {"top_k": 0, "seeds": []})
    document = {"pack": 1, **_OF_CLUSTERS, **document}  # studies of earlier versions have no packs
    renamed = {name: document.pop(key) for name, key in _IN_FILE.items()}
    return StudySpec(arms=arms, **budget, **_named(confirmation, _CONFIRMATION_IN_FILE), **renamed, **document)


def _named(values: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    return {name: values[key] for name, key in keys.items()}
