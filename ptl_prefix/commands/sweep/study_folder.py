"""Studies on disk: begun, opened again, and run by the workers of this process.

In: a spec, or the folder of a study. Out: a scheduler over what is written down, and a pool's work at it. The
configs that trials are made of are copied into the study's folder when it begins: who edits `conf/` meanwhile changes
nothing, and whoever joins from another machine composes the same.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ptl_prefix import settings
from ptl_prefix.artifacts.atomic import write_atomically, write_folder_atomically
from ptl_prefix.artifacts.file_lock import FileLock
from ptl_prefix.commands.config.arguments import HydraFlags
from ptl_prefix.commands.config.compose import compose_and_check
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.commands.sweep.parse_study import Asked
from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.proposer import Proposer
from ptl_prefix.sweeping.result_cache import ResultCache, code_fingerprint
from ptl_prefix.sweeping.scheduler import Scheduler, max_steps_of
from ptl_prefix.sweeping.storage import StudyStorage
from ptl_prefix.sweeping.study_spec import STUDY_FILE, StudySpec
from ptl_prefix.sweeping.trial_processes import TrialServer
from ptl_prefix.sweeping.trial_store import TrialStore
from ptl_prefix.sweeping.worker_pool import WorkerPool

CONFIGS = "configs"
"""The copy of the configs, in a study's folder."""

_WHERE = "where.yaml"
_OWN_CONFIGS = "own"
_BEGINNING = ".begin.lock"
_HOST_LOG = "host.log"
_MAY_CHANGE = ("token", "workers", "threads", "devices", "warm", "reuse", "code", "budget", "max_failure_rate")
"""What a study may go on with, though it began with something else."""


@dataclass(frozen=True)
class Study:
    """A study that has begun.

    Args:
        folder: Where it lies.
        spec: What it asks.
        storage: A URL, or `None` for a journal in the folder.
    """

    folder: Path
    spec: StudySpec
    storage: str | None

    def scheduler(self) -> Scheduler:
        """What is written down of it, and what is next."""
        spec = self.spec
        store = TrialStore(self.folder, spec, StudyStorage(self.folder, self.storage))
        pruner = build(spec.pruner)
        points = Proposer(store, build(spec.sampler), pruner, self.max_steps)
        known = ResultCache(self.folder.parent) if spec.reuse else None
        return Scheduler(store, points, pruner, _freezing(self.folder, spec), known)

    def first_config(self) -> dict[str, Any]:
        """The config of the first point that was checked: what all trials have, they have from here."""
        config = yaml.safe_load((self.folder / CONFIGS / "first.yaml").read_text(encoding="utf-8"))
        assert isinstance(config, dict)
        return config

    @property
    def max_steps(self) -> int:
        """Steps of a trial's training, as far as the spec says."""
        return max_steps_of(self.first_config())

    def pool(
        self,
        scheduler: Scheduler,
        say: Callable[[str], None],
        workers: int | None = None,
        host: TrialServer | None = None,
    ) -> WorkerPool:
        """The workers of this process.

        Args:
            scheduler: Hands out their jobs.
            say: Told in a sentence what happened.
            workers: How many; `None`: as many as the spec says.
            host: One that was prepared.
        """
        spec = self.spec
        if host is None or host.warm != spec.warm:
            host = TrialServer(warm=spec.warm)
        host.keep_log(self.folder / _HOST_LOG)
        return WorkerPool(
            scheduler,
            host,
            workers=workers or spec.workers,
            threads=spec.threads,
            devices=spec.devices,
            say=say,
        )


def begin(asked: Asked, flags: HydraFlags) -> tuple[Study, bool]:
    """The study of a spec: a new one, or the one of the same spec that has begun.

    Returns:
        The study, and whether it is new.

    Raises:
        SweepError: If a study of that name asks something else.
    """
    folder = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / _BEGINNING):  # two that ask the same at once begin one study
        if not (folder / STUDY_FILE).exists():
            _keep_configs(folder, flags, asked.config)
            write_atomically(folder / _WHERE, yaml.safe_dump({"storage": asked.storage}))
            asked.spec.write(folder)
            return Study(folder, asked.spec, asked.storage), True
    study = open_study(folder)
    differing = [
        key for key in vars(asked.spec) if key not in _MAY_CHANGE and _plain(asked.spec, key) != _plain(study.spec, key)
    ]
    if differing:
        raise SweepError(
            f"A study goes on with the spec it began with, but {folder} has another {', '.join(differing)}; "
            "give another hydra.sweeper.study_name, or remove that folder."
        )
    # More trials, or other machines, are no other spec.
    changed = {key: getattr(asked.spec, key) for key in _MAY_CHANGE if key not in ("token", "code")}
    spec = replace(study.spec, **changed)
    spec.write(folder)
    return Study(folder, spec, study.storage), False


def open_study(folder: Path) -> Study:
    """A study that has begun.

    Raises:
        SweepError: If there is none.
    """
    spec = StudySpec.read(folder)
    where = yaml.safe_load((folder / _WHERE).read_text(encoding="utf-8"))
    return Study(folder, spec, where["storage"])


def has_other_code(study: Study) -> bool:
    """Whether the package is not the one that the study began with."""
    return study.spec.code != code_fingerprint()


def _plain(spec: StudySpec, key: str) -> Any:
    value = getattr(spec, key)
    if key == "arms":
        return [(arm.name, list(arm.overrides), arm.space.as_document()) for arm in value]
    if key == "confirmation":
        return None if value is None else (value.top_k, list(value.seeds))
    return list(value) if isinstance(value, (tuple, list)) else value


def _keep_configs(folder: Path, flags: HydraFlags, first: Mapping[str, Any]) -> None:
    with write_folder_atomically(folder / CONFIGS) as kept:
        shutil.copytree(settings.conf_dir(), kept / "conf")
        shutil.copytree(settings.sweeps_dir(), kept / "sweeps")
        if flags.config_dir is not None:
            shutil.copytree(flags.config_dir, kept / _OWN_CONFIGS)
        (kept / "first.yaml").write_text(yaml.safe_dump(dict(first), sort_keys=False), encoding="utf-8")


def _freezing(folder: Path, spec: StudySpec) -> Callable[[Sequence[str]], dict[str, Any]]:
    """From overrides to a trial's config, composed of the study's own copy of the configs."""
    kept = (folder / CONFIGS).resolve()
    given: list[tuple[str, str | None]] = [("--config-name", spec.config_name)]
    if (kept / _OWN_CONFIGS).is_dir():
        given.append(("--config-dir", str(kept / _OWN_CONFIGS)))
    flags = HydraFlags(tuple(given))

    def freeze(overrides: Sequence[str]) -> dict[str, Any]:
        with settings.read_configs_from(kept):
            return compose_and_check(VERBS["train"], tuple(overrides), flags).config

    return freeze
