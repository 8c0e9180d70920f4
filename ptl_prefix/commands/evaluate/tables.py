"""What a person sees when `evaluate` ends: the numbers with what they mean, three examples, and the paths."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.evaluation_record import PREDICTIONS_FILE, RECORD_FILE, EvaluationKey
from ptl_prefix.commands.terminal import format_example
from ptl_prefix.evaluation.evaluate import Evaluation

_NUM_EXAMPLES = 3


def show_evaluation(found: Evaluation, console: Console) -> None:
    """Print it."""
    record, question = found.record, found.record.question
    table = Table(
        title=f"{question.method} on {question.backbone}, {question.task}, {question.split}",
        title_justify="left",
        caption=_caption(found),
        caption_justify="left",
    )
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    if record.intervals:
        table.add_column("95% interval", no_wrap=True)
    table.add_column("better")
    table.add_column("scale")
    for name, value in record.metrics.items():
        info, ends = record.metric_info[name], record.intervals.get(name)
        interval = [("" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}")] if record.intervals else []
        better = "lower" if info.direction == "minimize" else "higher"
        table.add_row(name, f"{value:.4f}", *interval, better, info.scale)
    console.print(table)
    for name, reason in record.missing.items():
        console.print(Text(f"no {name}: {reason}"), soft_wrap=True)
    for prediction in found.predictions[:_NUM_EXAMPLES]:
        console.print(format_example("source", prediction.source, "bold"))
        console.print(format_example("written", prediction.hypothesis, "green"))
        console.print(format_example("reference", prediction.references[0], ""))
        console.print()
    console.print(Text(f"predictions: {found.folder / PREDICTIONS_FILE}"), soft_wrap=True)
    console.print(Text(f"metrics:     {found.folder / RECORD_FILE}"), soft_wrap=True)


def _caption(found: Evaluation) -> str:
    record, question = found.record, found.record.question
    of = "all" if question.num_examples == record.num_in_split else f"{question.num_examples} of"
    took = f"; {record.decode_s:.1f} s of decoding" if record.decode_s else ""
    return f"{of} {record.num_in_split} inputs; {_how(question)}{took}"


def _how(question: EvaluationKey) -> str:
    if question.over_labels:
        return "the most likely label"
    decoding = question.decoding
    if decoding.do_sample:
        return f"sampled at temperature {decoding.temperature:g}, seed {decoding.seed}"
    return "greedy" if decoding.num_beams == 1 else f"{decoding.num_beams} beams"
