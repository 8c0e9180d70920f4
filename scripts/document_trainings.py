"""What the trainings on a document have cost: the part of its evidence that no examination can tell.

In: finished run folders, and the seconds of their commands. Out: a `DocumentTrainings`, its JSON file, and its tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.document_file import DocumentFile
from ptl_prefix.artifacts.json_document import STRICT
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.artifacts.self_study import read_self_study
from ptl_prefix.artifacts.self_study_facts import StudyCounts
from ptl_prefix.errors import RunError
from ptl_prefix.reporting.grids import Cell, Column, Grid

_VERSION = 1
_SECONDS = ".seconds"


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """One training.

    Args:
        name: Name of its run folder: the method and the number of positions.
        trained: Number of trainable parameters.
        bundle_bytes: Size of its bundle.
        steps: Optimiser steps.
        train_s: Seconds of training.
        command_s: Seconds of the whole command; that of the first training holds the self-study.
    """

    name: str
    trained: int
    bundle_bytes: int
    steps: int
    train_s: float
    command_s: float


@dataclass(frozen=True, kw_only=True)
class DocumentTrainings:
    """All trainings on a document.

    Args:
        counts: Conversations of the self-study that all of them read.
        coverage: Tokens of these conversations' chunks, divided by those of the document.
        trainings: The trainings, in their order.
        schema_version: Version of the file's format.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    counts: StudyCounts
    coverage: float
    trainings: tuple[TrainingCost, ...]
    schema_version: int = _VERSION


_FILE = DocumentFile(
    kind=DocumentTrainings,
    version=_VERSION,
    max_bytes=2**20,
    name="A file of trainings on a document",
    error=RunError,
    write_advice="leave out what was not measured.",
    read_advice="run `python -m scripts.document_study` again.",
)
write_trainings, read_trainings = _FILE.write, _FILE.read


def add_seconds(run: Path, seconds: float) -> None:
    """Note that a command for a run has taken some time; that of earlier commands, which were killed, counts too."""
    file = _seconds_file(run)
    before = float(file.read_text(encoding="utf-8")) if file.is_file() else 0.0
    write_atomically(file, f"{before + seconds:.1f}\n")


def _seconds_file(run: Path) -> Path:
    return run.with_name(run.name + _SECONDS)


def trainings_of(runs: Sequence[Path]) -> DocumentTrainings:
    """What finished trainings on one document have cost.

    Args:
        runs: Their run folders; the first one's command has made the self-study.
    """
    study = read_self_study(Path(read_record(RunFolder(runs[0]).record).config["task"]["self_study"]))
    return DocumentTrainings(
        counts=study.facts.counts, coverage=study.facts.coverage, trainings=tuple(map(_training, runs))
    )


def _training(run: Path) -> TrainingCost:
    folder = RunFolder(run)
    record = read_record(folder.record)
    return TrainingCost(
        name=run.name,
        trained=record.parameters.trained,
        bundle_bytes=sum(file.stat().st_size for file in folder.bundle.rglob("*") if file.is_file()),
        steps=record.cost.steps,
        train_s=record.cost.train_s,
        command_s=float(_seconds_file(run).read_text(encoding="utf-8")),
    )


def counts_sentence(trainings: DocumentTrainings) -> str:
    """What the self-study has given, and what it has left out."""
    counts = trainings.counts
    dropped = ", ".join(f"{number} for {reason.replace('_', ' ')}" for reason, number in counts.dropped.items())
    return (
        f"Of {counts.asked:,} questions, {counts.kept:,} conversations with {counts.answer_tokens:,} answer tokens "
        f"were kept (coverage {trainings.coverage:.1f}), {counts.given_up:,} were given up"
        f"{f'; dropped: {dropped}' if dropped else ''}."
    )


def trainings_grid(trainings: DocumentTrainings) -> Grid:
    """A row for each training."""
    headings = ("trainable parameters", "bundle, MB", "steps", "training, s", "whole command, s")
    columns = (Column("training", "left"), *map(Column, headings))
    return Grid(columns, tuple(map(_row, trainings.trainings)))


def _row(one: TrainingCost) -> tuple[Cell, ...]:
    texts = (
        one.name,
        f"{one.trained:,}",
        f"{one.bundle_bytes / 1e6:,.2f}",
        f"{one.steps:,}",
        f"{one.train_s:,.0f}",
        f"{one.command_s:,.0f}",
    )
    return tuple(map(Cell, texts))
