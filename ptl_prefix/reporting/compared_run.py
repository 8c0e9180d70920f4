"""The parts of a run folder that a comparison reads.

In: a run folder. Out: its record, evaluations, predictions and learning curve; or the reason why the run is excluded.
Nothing here loads a tensor.
"""

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptl_prefix.artifacts.evaluation_record import (
    PREDICTIONS_FILE,
    RECORD_FILE,
    EvaluationRecord,
    read_evaluation_record,
)
from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.manifest import Manifest, read_manifest
from ptl_prefix.artifacts.predictions import Prediction, read_predictions
from ptl_prefix.artifacts.rebuilt_record import rebuild_record
from ptl_prefix.artifacts.run_folder import CONFIRM, RunFolder
from ptl_prefix.artifacts.run_record import RunRecord, read_record
from ptl_prefix.errors import BundleError, PtlPrefixError
from ptl_prefix.reporting.record_checks import is_usable, why_unusable
from ptl_prefix.reporting.run_state import bytes_on_disk, read_state

Seed = tuple[int, int | None]
"""A run's `seed`, and its `task.subset_seed` if it is trained on a subset, else `None`."""


@dataclass(frozen=True)
class ExcludedRun:
    """A run that is in no table.

    Args:
        path: Run folder, or address of a mirrored run.
        reason: Predicate of a sentence whose subject is the path.
    """

    path: Path | str
    reason: str


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A run that is compared.

    Args:
        folder: Run folder.
        record: Content of its `record.json`.
    """

    folder: RunFolder
    record: RunRecord

    @property
    def seed(self) -> Seed:
        """The seeds, which distinguish the runs of one row."""
        task = self.record.config.get("task", {})
        has_subset = task.get("num_train_examples") is not None
        return self.record.seed, task.get("subset_seed") if has_subset else None

    @property
    def phase(self) -> str | None:
        """`search` or `confirm` if the run is a trial of a study, else `None`."""
        if self.record.study is None:
            return None
        return CONFIRM if self.folder.path.absolute().parent.name == CONFIRM else "search"

    @functools.cached_property
    def manifest(self) -> Manifest | None:
        """The bundle's manifest; `None` if there is no readable one."""
        try:
            return read_manifest(self.folder.bundle)
        except BundleError:
            return None

    @functools.cached_property
    def bundle_bytes(self) -> int | None:
        """Size of the bundle on disk; `None` if there is no bundle."""
        return bytes_on_disk(self.folder.bundle) if self.folder.bundle.is_dir() else None

    @functools.cached_property
    def full_evaluations(self) -> dict[Path, EvaluationRecord]:
        """Evaluations of this bundle on the full test split, by folder; unreadable ones are ignored."""
        adaptation = None if self.manifest is None else self.manifest.tensors_sha256
        return {
            folder: record
            for folder, record in self._evaluations.items()
            if record.key.num_examples == record.num_in_split
            and record.key.task_version == self.record.task_version
            and record.key.adaptation == adaptation
        }

    @functools.cached_property
    def training_outputs(self) -> Path | None:
        """The folder of the predictions that training decoded at its end; `None` if it is ambiguous."""
        folders = [path.parent for path in sorted(self.folder.evaluation.glob(f"test-*/{PREDICTIONS_FILE}"))]
        wanted = self.record.config.get("evaluation", {}).get("num_examples")
        own = [
            folder
            for folder in folders
            if (record := self._evaluations.get(folder)) is None
            or (record.key.decoding == self.record.decoding and record.key.num_examples == wanted)
        ]
        if not own:  # the split is smaller than the requested sample, so its evaluation is a full one
            own = [folder for folder, record in self.full_evaluations.items() if _decodes_as(record, self.record)]
        return own[0] if len(own) == 1 else None

    @functools.cached_property
    def curve(self) -> list[tuple[int, float]]:
        """Steps and `val/loss`; step 0 is the bare backbone, if it was measured."""
        try:
            events = read_events(self.folder.events)
        except PtlPrefixError:
            return []
        kinds = {"bare": "val/loss_before", "validation": "val/loss"}
        points = {
            event["step"]: event[kinds[event["kind"]]]
            for event in events
            if isinstance(event.get(kinds.get(event["kind"], "")), int | float)
        }
        return sorted(points.items())

    @functools.cached_property
    def _evaluations(self) -> dict[Path, EvaluationRecord]:
        found = {}
        for path in sorted(self.folder.evaluation.glob(f"test-*/{RECORD_FILE}")):
            try:
                record = read_evaluation_record(path)
            except PtlPrefixError:
                continue
            if is_usable(record):
                found[path.parent] = record
        return found


def _decodes_as(evaluation: EvaluationRecord, record: RunRecord) -> bool:
    return evaluation.key.decoding == record.decoding


def read_outputs(folder: Path | None) -> list[Prediction]:
    """The predictions in an evaluation folder; empty if they are not readable."""
    try:
        return [] if folder is None else read_predictions(folder / PREDICTIONS_FILE)
    except PtlPrefixError:
        return []


def read_runs(folders: Sequence[RunFolder], include: Collection[str]) -> tuple[list[ComparedRun], list[ExcludedRun]]:
    """Read finished runs.

    Args:
        folders: Run folders.
        include: Statuses of runs that are read besides finished ones.

    Returns:
        The runs, and the excluded runs with reasons.
    """
    runs: list[ComparedRun] = []
    excluded: list[ExcludedRun] = []
    for folder in folders:
        state = read_state(folder)
        if state != "finished" and state not in include:
            excluded.append(ExcludedRun(folder.place, _REASONS[state]))
            continue
        try:
            record = rebuild_record(folder) if state == "died" else read_record(folder.record)
            reason = why_unusable(record)
            if reason is None:
                runs.append(ComparedRun(folder, record))
            else:
                excluded.append(ExcludedRun(folder.place, reason))
        except PtlPrefixError as error:
            excluded.append(ExcludedRun(folder.place, f"is unreadable: {error}"))
    return runs, excluded


_REASONS = {
    "stopped": "was stopped before it finished (use include=[stopped] to include it)",
    "failed": "failed (use include=[failed] to include it)",
    "pruned": "was pruned by its study (use include=[pruned] to include it)",
    "running": "is still running",
    "open": "has no record in its mirror: it runs on another machine, or was killed there",
    "died": "died without a record (use include=[died] to include what its log contains)",
    "damaged": "has an unreadable record",
}
