"""Which test numbers a table shows: those of the whole split, or of what training decoded at its end. Never both.

In: the runs of one table. Out: `TableMetrics`, the same kind for every run, with what must be said of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.evaluation_record import EvaluationRecord
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.reporting.compared_run import ComparedRun, read_outputs

_MOST_NAMED = 3


@dataclass(frozen=True)
class RunMetrics:
    """The numbers of one run.

    Args:
        metrics: Values by `split/name`, those of the bare backbone left out.
        infos: What they mean, by the same key.
        decoding: How the test's text was decoded.
        num_examples: Test inputs; `None` where nothing says how many.
        outputs: The folder with what was decoded; `None` where it is not known.
    """

    metrics: Mapping[str, float]
    infos: Mapping[str, MetricInfo]
    decoding: Decoding
    num_examples: int | None
    outputs: Path | None

    def predictions(self) -> list[Prediction]:
        """What was decoded; nothing where it cannot be read."""
        return read_outputs(self.outputs)


@dataclass(frozen=True)
class TableMetrics:
    """The numbers of all runs of a table.

    Args:
        by_run: In the order of the runs.
        is_full_split: Whether they are of `ptl-prefix evaluate` on the whole test split.
        notes: What must be said of the choice.
    """

    by_run: tuple[RunMetrics, ...]
    is_full_split: bool
    notes: tuple[str, ...]


def select_metrics(runs: Sequence[ComparedRun]) -> TableMetrics:
    """Those of the whole test split if every run has them, decoded alike; else those of training's end."""
    decoding = _shared_decoding(runs)
    if decoding is not None:
        numbers = tuple(_whole(run, decoding) for run in runs)
        count = numbers[0].num_examples
        return TableMetrics(numbers, True, (f"Test numbers are of the whole split, {count:,} inputs.",))
    numbers = tuple(_at_the_end(run) for run in runs)
    with_whole = [run for run in runs if run.full_evaluations]
    notes = []
    if counts := {number.num_examples for number in numbers if number.num_examples is not None}:
        notes.append(f"Test numbers are of the {max(counts):,} inputs that training decoded at its end.")
    if 0 < len(with_whole) < len(runs):
        missing = [str(run.folder.path) for run in runs if not run.full_evaluations]
        named = ", ".join(missing[:_MOST_NAMED]) + (" and more" if len(missing) > _MOST_NAMED else "")
        notes.append(
            f"{len(with_whole)} of {len(runs)} runs have an evaluation of the whole test split, which is not used: "
            f"the others have none (ptl-prefix evaluate run=…): {named}."
        )
    elif with_whole:
        notes.append("Evaluations of the whole test split are not used: the runs have none that is decoded alike.")
    return TableMetrics(numbers, False, tuple(notes))


def _shared_decoding(runs: Sequence[ComparedRun]) -> Decoding | None:
    """How every run's whole split was decoded at least once: as in its own record, or else in the one shared way."""
    sets = [{record.question.decoding for record in run.full_evaluations.values()} for run in runs]
    shared = set.intersection(*sets)
    own = [decoding for decoding in shared if all(decoding == run.record.decoding for run in runs)]
    return next(iter(own or shared)) if own or len(shared) == 1 else None


def _whole(run: ComparedRun, decoding: Decoding) -> RunMetrics:
    folder, record = _newest(run, decoding)
    own = {key: value for key, value in _of_training(run).items() if not key.startswith("test/")}
    metrics = {**own, **record.metrics}
    infos = {**{key: _info(run, key) for key in own}, **record.metric_info}
    return RunMetrics(metrics, infos, decoding, record.question.num_examples, folder)


def _newest(run: ComparedRun, decoding: Decoding) -> tuple[Path, EvaluationRecord]:
    """Of several, as from several devices' dtypes, the one that was written last."""
    fitting = {
        folder: record for folder, record in run.full_evaluations.items() if record.question.decoding == decoding
    }
    folder = max(fitting, key=lambda path: (path.stat().st_mtime, str(path)))
    return folder, fitting[folder]


def _at_the_end(run: ComparedRun) -> RunMetrics:
    metrics = _of_training(run)
    folder = run.training_outputs
    wanted = run.record.config.get("evaluation", {}).get("num_examples")
    count = len(read_outputs(folder)) or wanted
    infos = {key: _info(run, key) for key in metrics}
    return RunMetrics(metrics, infos, run.record.decoding, count, folder)


def _of_training(run: ComparedRun) -> dict[str, float]:
    return {key: value for key, value in run.record.metrics.items() if not key.endswith("_before")}


def _info(run: ComparedRun, key: str) -> MetricInfo:
    """What a metric means, by its key or by the name after the slash."""
    infos = run.record.metric_info
    unknown = MetricInfo(scale="?", direction="maximize", version="?", library="?")
    return infos.get(key) or infos.get(key.partition("/")[2]) or unknown
