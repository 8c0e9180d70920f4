"""Where a training starts: from the beginning, or from a checkpoint of a run folder whose inputs are the same.

In: a run folder. Out: `Start`, which was found without changing the folder, and changes it in `prepare`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.checkpoint_file import read_checkpoint
from ptl_prefix.artifacts.event_log import drop_events_after, read_events
from ptl_prefix.artifacts.fingerprint import package_version
from ptl_prefix.artifacts.input_fingerprints import accepted_changes, known_fingerprints, require_same_inputs
from ptl_prefix.artifacts.run_config import read_config, write_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.data.task import Task
from ptl_prefix.errors import RunError
from ptl_prefix.training.checkpoints import stopped_early
from ptl_prefix.training.kept_checkpoints import copy_checkpoint


@dataclass(frozen=True, kw_only=True)
class CheckedInputs:
    """The inputs of a run, compared with its log.

    Args:
        fingerprints: Fingerprints of now.
        accepted: Kinds that differ from the log's, which the user accepted.
        is_new: Whether the log has no fingerprints yet.
    """

    fingerprints: dict[str, str]
    accepted: list[str]
    is_new: bool


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a training starts.

    Args:
        folder: Run folder.
        step: Step of the checkpoint that the run resumes from; `None` if it starts from the beginning.
        stopped_early: Whether early stopping had ended the run at that step.
        anyway: Kinds of inputs that may differ from the log's.
        in_place_of_last: Checkpoint that takes the place of a damaged `last.ckpt`; `None` if that one is whole.
        known: Fingerprints that the run has by its log; `None` if it has none.
        accepted_before: What was accepted to differ when the run was resumed before.
    """

    folder: RunFolder
    step: int | None = None
    stopped_early: bool = False
    anyway: Collection[str] = ()
    in_place_of_last: Path | None = None
    known: dict[str, str] | None = None
    accepted_before: Collection[str] = ()

    @property
    def accepts_other_rows(self) -> bool:
        """Whether the checkpoint may be one of other training rows; an accepted change counts at later resumes, too."""
        return "data" in {*self.anyway, *self.accepted_before}

    def check(self, task: Task, backbone: Backbone) -> CheckedInputs:
        """Compare the inputs with those that the run has by its log.

        Raises:
            ChangedInputsError: If a kind differs that was not accepted.
        """
        found = input_fingerprints(task, backbone)
        kinds = require_same_inputs(self.known, found, accepted=self.anyway, folder=self.folder.path)
        return CheckedInputs(fingerprints=found, accepted=list(kinds), is_new=self.known is None)

    def prepare(self, config: Mapping[str, Any]) -> None:
        """Remove the record, drop the events after the checkpoint, and write the config of a new or longer run.

        Raises:
            RunError: If the log is damaged.
            StorageError: If the disk does not take a file.
        """
        self.folder.checkpoints.mkdir(parents=True, exist_ok=True)
        if self.in_place_of_last is not None:
            copy_checkpoint(self.in_place_of_last, self.folder.last)
        drop_events_after(self.folder.events, -1 if self.step is None else self.step)
        if self.step is None or self._is_prolonged(config):
            write_config(self.folder, config)
        self.folder.record.unlink(missing_ok=True)  # a resumed run has not ended

    def _is_prolonged(self, config: Mapping[str, Any]) -> bool:
        steps = ((one.get("trainer") or {}).get("max_steps") for one in (config, read_config(self.folder)))
        return next(steps) != next(steps)


def input_fingerprints(task: Task, backbone: Backbone) -> dict[str, str]:
    """The fingerprints of everything that a training reads: each split of the data, weights, tokenizer and code."""
    return {
        **{f"data/{split}": task.fingerprint(split) for split in task.splits},
        "weights": backbone.identity.weights_fingerprint,
        "tokenizer": backbone.identity.tokenizer_fingerprint,
        "code": package_version(),
    }


def find_start(folder: RunFolder, *, resume: bool, anyway: Collection[str] = ()) -> Start:
    """Find where a training starts. Nothing in the folder is changed.

    Args:
        folder: Run folder.
        resume: Whether to resume from a checkpoint, if there is one.
        anyway: Kinds of inputs that may differ; with `checkpoint`, a damaged `last.ckpt` is replaced by the newest
            whole checkpoint.

    Raises:
        RunError: If the last checkpoint is damaged, or the log is missing.
    """
    if not (resume and folder.last.exists()):
        return Start(folder=folder)
    other = None
    try:
        checkpoint = read_checkpoint(folder.last)
    except RunError as error:
        other, checkpoint = _accepted_other(folder, error, is_accepted="checkpoint" in anyway)
    events = read_events(folder.events)
    return Start(
        folder=folder,
        step=int(checkpoint["global_step"]),
        stopped_early=stopped_early(checkpoint),
        anyway=anyway,
        in_place_of_last=other,
        known=known_fingerprints(events),
        accepted_before=accepted_changes(events),
    )


def _accepted_other(folder: RunFolder, error: RunError, *, is_accepted: bool) -> tuple[Path, dict[str, Any]]:
    """The newest whole checkpoint besides the damaged `last.ckpt`, if the user accepted it in place of that one."""
    found: dict[Path, dict[str, Any]] = {}
    damage = ""
    for path in (folder.best, *map(folder.kept, folder.kept_steps())):
        try:
            found[path] = read_checkpoint(path)
        except RunError as other:
            damage += f" {other}"
    if not found:
        raise RunError(f"{error}{damage} No checkpoint is left to resume from; repeat the run.") from error
    path = max(found, key=lambda one: int(found[one]["global_step"]))
    if is_accepted:
        return path, found[path]
    raise RunError(
        f"{error} Nothing was changed. The newest whole checkpoint, {path.name} of step {found[path]['global_step']}, "
        f"can take its place: ptl-prefix train resume={folder.path} resume_anyway=[checkpoint]"
    ) from error
