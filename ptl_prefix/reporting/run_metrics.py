"""Chooses the test metrics of a table: those of the full test split, or those of training's final evaluation.

In: the runs of one table. Out: `TableMetrics`; one table never mixes the two kinds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.evaluation_record import EvaluationRecord
from ptl_prefix.artifacts.metric_key import is_bare
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.reporting.compared_run import ComparedRun, read_outputs

_MAX_NAMES = 3


@dataclass(frozen=True)
class RunMetrics:
    """The metrics of one run.

    Args:
        metrics: Values by `split/name`, without those of the bare backbone.
        infos: Scale and direction of each metric, by the same keys.
        decoding: Decoding settings of the test outputs.
        num_examples: Number of test inputs; `None` if unknown.
        outputs: Folder of the predictions; `None` if unknown.
    """

    metrics: Mapping[str, float]
    infos: Mapping[str, MetricInfo]
    decoding: Decoding
    num_examples: int | None
    outputs: Path | None

    def predictions(self) -> list[Prediction]:
        """The predictions; empty if they are not readable."""
        return read_outputs(self.outputs)


@dataclass(frozen=True)
class TableMetrics:
    """The metrics of all runs of a table.

    Args:
        by_run: Metrics of each run, in the order of the runs.
        is_full_split: Whether they come from `ptl-prefix evaluate` on the full test split.
        notes: Sentences that tell readers which metrics were chosen.
    """

    by_run: tuple[RunMetrics, ...]
    is_full_split: bool
    notes: tuple[str, ...]


def select_metrics(runs: Sequence[ComparedRun]) -> TableMetrics:
    """Use evaluations of the full test split if every run has one with the same decoding settings.

    Otherwise use the test metrics that each training recorded when it finished.
    """
    decoding = _shared_decoding(runs)
    if decoding is not None:
        by_run = tuple(_of_full_split(run, decoding) for run in runs)
        count = by_run[0].num_examples
        return TableMetrics(by_run, True, (f"Test metrics are computed on the full test split ({count:,} inputs).",))
    by_run = tuple(_of_training_end(run) for run in runs)
    evaluated = [run for run in runs if run.full_evaluations]
    notes = []
    if counts := {of_run.num_examples for of_run in by_run if of_run.num_examples is not None}:
        notes.append(
            f"Test metrics are computed on the {max(counts):,} inputs that were decoded at the end of training."
        )
    if 0 < len(evaluated) < len(runs):
        missing = [run.folder.shown for run in runs if not run.full_evaluations]
        named = ", ".join(missing[:_MAX_NAMES]) + (" and more" if len(missing) > _MAX_NAMES else "")
        notes.append(
            f"{len(evaluated)} of {len(runs)} runs have an evaluation of the full test split. It is not used, because "
            f"these runs have none: {named}. Evaluate them with: ptl-prefix evaluate run=…"
        )
    elif evaluated:
        notes.append("Evaluations of the full test split are not used, because the runs share no decoding settings.")
    return TableMetrics(by_run, False, tuple(notes))


def _shared_decoding(runs: Sequence[ComparedRun]) -> Decoding | None:
    """The decoding settings of a full evaluation that every run has.

    Those of the runs' own records come first. `None` if there are none, or several without a reason to prefer one.
    """
    sets = [{record.key.decoding for record in run.full_evaluations.values()} for run in runs]
    shared = set.intersection(*sets)
    own = [decoding for decoding in shared if all(decoding == run.record.decoding for run in runs)]
    return next(iter(own or shared)) if own or len(shared) == 1 else None


def _of_full_split(run: ComparedRun, decoding: Decoding) -> RunMetrics:
    folder, record = _newest(run, decoding)
    own = {key: value for key, value in _recorded(run).items() if not key.startswith("test/")}
    metrics = {**own, **record.metrics}
    infos = {**{key: _info(run, key) for key in own}, **record.metric_info}
    return RunMetrics(metrics, infos, decoding, record.key.num_examples, folder)


def _newest(run: ComparedRun, decoding: Decoding) -> tuple[Path, EvaluationRecord]:
    """The newest full evaluation; there are several if a run was evaluated with several dtypes."""
    fitting = {folder: record for folder, record in run.full_evaluations.items() if record.key.decoding == decoding}
    folder = max(fitting, key=lambda path: (path.stat().st_mtime, str(path)))
    return folder, fitting[folder]


def _of_training_end(run: ComparedRun) -> RunMetrics:
    metrics = _recorded(run)
    folder = run.training_outputs
    wanted = run.record.config.get("evaluation", {}).get("num_examples")
    count = len(read_outputs(folder)) or wanted
    infos = {key: _info(run, key) for key in metrics}
    return RunMetrics(metrics, infos, run.record.decoding, count, folder)


def _recorded(run: ComparedRun) -> dict[str, float]:
    """The metrics of the adapted backbone, without the one that only chose the checkpoint.

    That one is of few inputs, and the best of several values. Without a test split, its key has the value of the
    evaluation at the end, which is kept.
    """
    metrics, selection = run.record.metrics, run.record.selection
    has_test = any(key.startswith("test/") for key in metrics)
    chosen_by = selection.metric if selection is not None and has_test else None
    return {key: value for key, value in metrics.items() if not is_bare(key) and key != chosen_by}


def _info(run: ComparedRun, key: str) -> MetricInfo:
    """A metric's info, by its key or by the name after the slash."""
    infos = run.record.metric_info
    unknown = MetricInfo(scale="?", direction="maximize", version="?", library="?")
    return infos.get(key) or infos.get(key.partition("/")[2]) or unknown
