"""Creates, opens and resumes studies on disk.

In: a parsed study, or the folder of an existing one. Out: `Study`, with its scheduler and the executor of this process.
The configs are copied into the study's folder when it is created. So later edits of `conf/` do not change the study,
and a worker on another machine composes the same configs.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ptl_prefix import settings
from ptl_prefix.artifacts.atomic import write_atomically, write_folder_atomically
from ptl_prefix.artifacts.file_lock import FileLock
from ptl_prefix.artifacts.remote.address import STUDIES, RemoteAddress
from ptl_prefix.commands.config.arguments import HydraFlags
from ptl_prefix.commands.config.compose import compose_and_check
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.commands.sweep.checks import StudyChecks
from ptl_prefix.commands.sweep.parsed_study import ParsedStudy
from ptl_prefix.commands.sweep.study_files import CONFIGS, CREATION_LOCK, STORAGE_FILE
from ptl_prefix.commands.sweep.trial_server import SERVER_MODULE
from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.local_executor import LocalExecutor
from ptl_prefix.sweeping.proposer import Proposer
from ptl_prefix.sweeping.result_cache import ResultCache, code_fingerprint
from ptl_prefix.sweeping.scheduler import ComposeConfig, Scheduler, max_steps_of
from ptl_prefix.sweeping.storage import StudyStorage, absolute_url, without_password
from ptl_prefix.sweeping.study_spec import STUDY_FILE, StudySpec
from ptl_prefix.sweeping.trial_processes import TrialServer
from ptl_prefix.sweeping.trial_store import TrialStore

STORAGE_VARIABLE = "PTL_PREFIX_STUDY_STORAGE"
"""Environment variable with the URL of a study's storage, which replaces the one that the study was created with."""
_USER_CONFIGS = "own"
_SERVER_LOG = "host.log"


@dataclass(frozen=True)
class Study:
    """An existing study.

    Args:
        folder: The study's folder.
        spec: The study's specification.
        storage: URL of the storage; `None` is a journal in the folder.
    """

    folder: Path
    spec: StudySpec
    storage: str | None

    @property
    def address(self) -> RemoteAddress | None:
        """Where the study is mirrored; `None` if its trials are not."""
        url = self.first_config().get("outputs_url")
        return None if url is None else RemoteAddress.parse(url) / STUDIES / f"{self.spec.name}-{self.spec.token}"

    @property
    def address_to_join(self) -> RemoteAddress | None:
        """The address at which machines without this folder join; `None` without one, or with trials in a file."""
        return self.address if (self.storage or "").startswith("postgresql") else None

    def scheduler(self, server: TrialServer | None = None) -> Scheduler:
        """The scheduler over the study's storage.

        Args:
            server: Trial server that checks the trials' configs; `None` checks them here.
        """
        spec = self.spec
        store = TrialStore(self.folder, spec, StudyStorage(self.folder, self.storage))
        pruner = build(spec.pruner)
        proposer = Proposer(store, build(spec.sampler), pruner, max_steps_of(self.first_config()))
        cache = ResultCache(self.folder.parent) if spec.reuse else None
        return Scheduler(store, proposer, pruner, _composer(self.folder, spec, StudyChecks(server)), cache)

    def first_config(self) -> dict[str, Any]:
        """The config of the first point, from which settings that all trials share are read."""
        config = yaml.safe_load((self.folder / CONFIGS / "first.yaml").read_text(encoding="utf-8"))
        assert isinstance(config, dict)
        return config

    def trial_server(self, prepared: TrialServer | None = None, launcher: Sequence[str] = ()) -> TrialServer:
        """The trial server of this process.

        Args:
            prepared: A server that was started before; one of the other kind of `warm` is not used.
            launcher: Command that starts the processes of each trial, such as srun with its options; an empty sequence
                forks each trial.
        """
        if launcher:
            prepared = TrialServer(SERVER_MODULE, warm=False, launcher=launcher)
            prepared.log_to(self.folder / _SERVER_LOG)
            return prepared
        fits = prepared is not None and prepared.warm == self.spec.warm
        server = prepared if prepared is not None and fits else TrialServer(SERVER_MODULE, warm=self.spec.warm)
        server.log_to(self.folder / _SERVER_LOG)
        return server

    def local_executor(
        self,
        scheduler: Scheduler,
        server: TrialServer,
        notify: Callable[[str], None],
        *,
        threads: int,
        devices: Sequence[int],
    ) -> LocalExecutor:
        """Starts workers in this process.

        Args:
            scheduler: Chooses their trials.
            server: Starts the trials.
            notify: Called with a status line when something happens.
            threads: CPU threads of each trial or pack.
            devices: Accelerators that the workers take in turn; an empty sequence assigns none.
        """
        return LocalExecutor(scheduler, server, threads=threads, devices=devices, notify=notify, pack=self.spec.pack)


def create_or_open_study(parsed: ParsedStudy, flags: HydraFlags) -> tuple[Study, bool]:
    """Create the study of a specification, or open it for resuming if it exists.

    Returns:
        The study, and whether it is new.

    Raises:
        SweepError: If the folder has a study with another specification.
    """
    folder = parsed.folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / CREATION_LOCK):  # two processes with the same specification create one study
        if not (folder / STUDY_FILE).exists():
            _copy_configs(folder, flags, parsed.first_config)
            write_atomically(
                folder / STORAGE_FILE, yaml.safe_dump({"storage": parsed.storage, "folder": folder.resolve().name})
            )
            parsed.spec.write(folder)
            return Study(folder, parsed.spec, _storage_here() or parsed.storage), True
    study = open_study(folder)
    spec, differences = study.spec.resumed_as(parsed.spec)
    if differences:
        raise SweepError(
            f"A study must be resumed with the specification it was created with, but {folder} differs in "
            f"{', '.join(differences)}; choose another hydra.sweeper.study_name, or remove that folder."
        )
    spec.write(folder)
    return Study(folder, spec, study.storage), False


def open_study(folder: Path) -> Study:
    """Open an existing study.

    Raises:
        SweepError: If the folder has none.
    """
    spec = StudySpec.read(folder)
    storage = yaml.safe_load((folder / STORAGE_FILE).read_text(encoding="utf-8"))["storage"]
    return Study(folder, spec, _storage_here() or storage)


def _storage_here() -> str | None:
    """The URL in the environment, where this machine reaches the study's database by another name or password.

    Raises:
        SweepError: If it is not the URL of a database.
    """
    url = os.environ.get(STORAGE_VARIABLE) or None
    if url is not None and not url.startswith(("sqlite:///", "postgresql://")):
        raise SweepError(
            f"${STORAGE_VARIABLE} must be sqlite:///PATH or postgresql://..., but is {without_password(url)!r}."
        )
    return absolute_url(url)


def user_configs(folder: Path) -> Path | None:
    """A study's copy of the user's own folder of configs; `None` if it was created without one."""
    configs = folder / CONFIGS / _USER_CONFIGS
    return configs if configs.is_dir() else None


def has_other_code(study: Study) -> bool:
    """Whether the package's code has changed since the study was created."""
    return study.spec.code != code_fingerprint()


def _copy_configs(folder: Path, flags: HydraFlags, first_config: Mapping[str, Any]) -> None:
    with write_folder_atomically(folder / CONFIGS) as copy:
        shutil.copytree(settings.conf_dir(), copy / "conf")
        shutil.copytree(settings.sweeps_dir(), copy / "sweeps")
        if flags.config_dir is not None:
            _copy_yaml(Path(flags.config_dir), copy / _USER_CONFIGS)
        if (working := settings.working_dir_of("sweeps")) is not None:
            _copy_yaml(working, copy / _USER_CONFIGS / "sweeps")
        (copy / "first.yaml").write_text(yaml.safe_dump(dict(first_config), sort_keys=False), encoding="utf-8")


def _copy_yaml(source: Path, target: Path) -> None:
    """Copy the configs of a folder, which may hold anything else as well: data, runs, or the copy itself."""
    target.mkdir(parents=True, exist_ok=True)
    for folder, names, files in os.walk(source):
        # A folder with a config.yaml or a study.yaml is a run or a study, whose YAML is no config.
        names[:] = [name for name in names if not name.startswith(".") and not _is_result(Path(folder, name))]
        for file in files:
            if file.endswith((".yaml", ".yml")):
                copy = target / Path(folder, file).relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(folder, file), copy)


def _is_result(folder: Path) -> bool:
    """Whether a folder holds what a run or a study has written, instead of configs."""
    return any((folder / name).exists() for name in (STUDY_FILE, "events.jsonl", CREATION_LOCK, STORAGE_FILE))


def _composer(folder: Path, spec: StudySpec, checks: StudyChecks) -> ComposeConfig:
    """A function from a trial's overrides to its config, composed from the study's own copy of the configs."""
    copy = (folder / CONFIGS).resolve()
    given: list[tuple[str, str | None]] = [("--config-name", spec.config_name)]
    if (configs := user_configs(copy.parent)) is not None:
        given.append(("--config-dir", str(configs)))
    flags = HydraFlags(tuple(given))

    def compose(overrides: Sequence[str]) -> dict[str, Any]:
        with settings.read_configs_from(copy):
            return compose_and_check(VERBS["train"], tuple(overrides), flags, checks.start_config_check).config

    return compose
