"""One run, as far as a comparison looks into it.

In: a run's folder. Out: its record, evaluations, outputs and learning curve; or the reason why it is left out. Nothing
here loads a tensor.
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
from ptl_prefix.artifacts.rebuilt_record import rebuilt_record
from ptl_prefix.artifacts.run_folder import CONFIRM, RunFolder
from ptl_prefix.artifacts.run_record import RunRecord, read_record
from ptl_prefix.errors import BundleError, PtlPrefixError
from ptl_prefix.reporting.run_state import bytes_on_disk, read_state

Seed = tuple[int, int | None]
"""What is drawn anew where only seeds differ: `seed`, and `task.subset_seed` where a subset is trained on."""


@dataclass(frozen=True)
class ExcludedRun:
    """A run that is in no table.

    Args:
        path: Its folder.
        reason: The rest of a sentence that begins with the path.
    """

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One run.

    Args:
        folder: Where it lies.
        record: What it says of itself.
    """

    folder: RunFolder
    record: RunRecord

    @property
    def seed(self) -> Seed:
        """What tells it from the other runs of its row."""
        task = self.record.config.get("task", {})
        has_subset = task.get("num_train_examples") is not None
        return self.record.seed, task.get("subset_seed") if has_subset else None

    @property
    def phase(self) -> str | None:
        """Of a sweep's run what it was for: `search`, or `confirm` what the search has found; else `None`."""
        if self.record.study is None:
            return None
        return CONFIRM if self.folder.path.absolute().parent.name == CONFIRM else "search"

    @functools.cached_property
    def manifest(self) -> Manifest | None:
        """Of its bundle; `None` where there is none that can be read."""
        try:
            return read_manifest(self.folder.bundle)
        except BundleError:
            return None

    @functools.cached_property
    def bundle_bytes(self) -> int | None:
        """What its bundle takes on disk."""
        return bytes_on_disk(self.folder.bundle) if self.folder.bundle.is_dir() else None

    @functools.cached_property
    def full_evaluations(self) -> dict[Path, EvaluationRecord]:
        """Evaluations of this bundle on the whole test split, by their folder; damaged ones are passed over."""
        adaptation = None if self.manifest is None else self.manifest.tensors_sha256
        return {
            folder: record
            for folder, record in self._evaluations.items()
            if record.question.num_examples == record.num_in_split
            and record.question.task_version == self.record.task_version
            and record.question.adaptation == adaptation
        }

    @functools.cached_property
    def training_outputs(self) -> Path | None:
        """The folder with what training decoded at its end; `None` where it cannot be told."""
        folders = [path.parent for path in sorted(self.folder.evaluation.glob(f"test-*/{PREDICTIONS_FILE}"))]
        wanted = self.record.config.get("evaluation", {}).get("num_examples")
        own = [
            folder
            for folder in folders
            if (record := self._evaluations.get(folder)) is None
            or (record.question.decoding == self.record.decoding and record.question.num_examples == wanted)
        ]
        if not own:  # a split that is smaller than the sample would be
            own = [folder for folder, record in self.full_evaluations.items() if _decodes_as(record, self.record)]
        return own[0] if len(own) == 1 else None

    @functools.cached_property
    def curve(self) -> list[tuple[int, float]]:
        """`val/loss` by step, the bare backbone's at 0 first where it was measured."""
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
                found[path.parent] = read_evaluation_record(path)
            except PtlPrefixError:
                continue
        return found


def _decodes_as(evaluation: EvaluationRecord, record: RunRecord) -> bool:
    return evaluation.question.decoding == record.decoding


def read_outputs(folder: Path | None) -> list[Prediction]:
    """What was decoded; nothing where it cannot be read."""
    try:
        return [] if folder is None else read_predictions(folder / PREDICTIONS_FILE)
    except PtlPrefixError:
        return []


def read_runs(folders: Sequence[RunFolder], include: Collection[str]) -> tuple[list[ComparedRun], list[ExcludedRun]]:
    """Runs that ended by themselves, and those of the states in `include`; and all others, with the reason."""
    runs: list[ComparedRun] = []
    excluded: list[ExcludedRun] = []
    for folder in folders:
        state = read_state(folder)
        if state != "finished" and state not in include:
            excluded.append(ExcludedRun(folder.path, _REASONS[state]))
            continue
        try:
            record = rebuilt_record(folder) if state == "died" else read_record(folder.record)
            runs.append(ComparedRun(folder, record))
        except PtlPrefixError as error:
            excluded.append(ExcludedRun(folder.path, f"cannot be read: {error}"))
    return runs, excluded


_REASONS = {
    "stopped": "was stopped before its end (include=[stopped] takes it in)",
    "failed": "failed (include=[failed] takes it in)",
    "pruned": "was given up by its study (include=[pruned] takes it in)",
    "running": "is still running",
    "died": "died without a record (include=[died] takes in what its log tells)",
    "damaged": "has a record that cannot be read",
}
