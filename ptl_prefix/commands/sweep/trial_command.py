"""The command that trains what a study found, as ordinary runs.

In: the specification of a study, and trials that differ in their seeds alone. Out: a command line. Everything that the
study sets is in it: its file, its arms, its points and the user's own folder of configs.
"""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ptl_prefix.artifacts.run_folder import CONFIRM, RunFolder
from ptl_prefix.artifacts.run_record import RunRecord, read_record
from ptl_prefix.commands.config.reproduce import command_for
from ptl_prefix.commands.sweep.study_folder import user_configs
from ptl_prefix.errors import PtlPrefixError
from ptl_prefix.sweeping.study_spec import StudySpec
from ptl_prefix.sweeping.trial import Trial

_OF_STUDIES = ("hydra.", "hydra/sweeper/", "hydra/launcher")
"""Overrides that say how a study runs. `hydra/sweeper=` is kept: the study's file may set keys that only it has."""


def train_command(spec: StudySpec, trials: Sequence[Trial], folder: Path) -> str:
    """The command that trains the config of some trials; a line for each trial if one command cannot.

    Args:
        spec: Specification of the study.
        trials: Finished trials that differ in their seeds alone.
        folder: Folder of the study.
    """
    with suppress(PtlPrefixError, ValueError):
        return command_for([_as_single_run(read_record(RunFolder(trial.folder(folder)).record)) for trial in trials])
    return "\n".join(_from_overrides(spec, trial, folder) for trial in trials)


def _as_single_run(record: RunRecord) -> RunRecord:
    """The record without the study's group, as a single run is not part of it."""
    return replace(record, config={**record.config, "tracking": {**record.config["tracking"], "group": None}})


def _from_overrides(spec: StudySpec, trial: Trial, folder: Path) -> str:
    """The command from the overrides of study, arm and trial, where the record's config is not composable otherwise."""
    words = ["ptl-prefix", "train"]
    if (configs := user_configs(folder)) is not None:
        words += ["--config-dir", str(configs)]
    if spec.config_name != "train":
        words += ["--config-name", spec.config_name]
    of_arm = () if trial.arm == CONFIRM else spec.arm(trial.arm).overrides
    of_study = [text for text in spec.overrides if not text.lstrip("+").startswith(_OF_STUDIES)]
    return shlex.join([*words, *of_study, *of_arm, *trial.overrides])
